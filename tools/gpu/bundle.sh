#!/bin/sh
# Packs all that a GPU machine without network and Java needs to test and measure the cuda engine, in pieces of at most 60 MB:
# a Java runtime, the jars, this build's classes and tests, and run.sh.
#
#   tools/gpu/bundle.sh OUT_DIR          then, on the GPU machine:   sh OUT_DIR/unpack.sh && meanflow-gpu/run.sh info
#
# Natives are those of linux-x86_64. Recompressing them takes a minute; the results are kept in ~/.cache/meanflow/gpu-bundle.
set -eu

[ $# -eq 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
mkdir -p "$1"
out=$(CDPATH='' cd -- "$1" && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/meanflow/gpu-bundle
maven="mvn -B -ntp -q ${MEANFLOW_MAVEN_OPTS:-}"
junit=org.junit.platform:junit-platform-console-standalone:$(sed -n 's/.*<junit.version>\(.*\)<.*/\1/p' "$root/pom.xml")
modules='meanflow-core meanflow-nn meanflow-sample meanflow-train examples'
mkdir -p "$cache"

cd "$root"
echo "building" >&2
$maven test-compile
$maven -f meanflow-nn/pom.xml dependency:copy "-Dartifact=$junit" "-DoutputDirectory=$root/target/gpu" </dev/null
tests=$(for name in assertj-core byte-buddy; do find "${MAVEN_REPOSITORY:-$HOME/.m2/repository}" -name "$name-[0-9]*.jar" | sort | tail -n 1; done)

jdk=$(sed -n 's/^ *java\.home = //p' examples/target/launch/jdk)
parts=java.base,java.compiler,java.desktop,java.instrument,java.logging,java.management,java.naming,java.sql,java.xml
parts=$parts,jdk.httpserver,jdk.incubator.vector,jdk.management,jdk.unsupported,jdk.zipfs
runtime=$cache/runtime-$({ cat "$jdk/release"; echo "$parts"; } | sha256sum | cut -c 1-16).tar.xz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -f "$runtime" ]; then
  echo "linking a Java runtime" >&2
  "$jdk/bin/jlink" --strip-debug --no-header-files --no-man-pages --compress zip-0 --output "$work/runtime" --add-modules "$parts"
  tar -C "$work" -c runtime | xz -T0 -6 >"$runtime.new"
  mv "$runtime.new" "$runtime"
fi

# Jars are stored without compression, so that xz sees what is in them. The natives of oneDNN stay here: they serve the cpu engine alone.
jars=
set -f; IFS=:
for jar in $(cat examples/target/launch/classpath); do jars="$jars $jar"; done
unset IFS; set +f
natives=
libraries=
for jar in $jars $tests "$root"/target/gpu/*.jar; do
  case $jar in
    */dnnl-*-linux-x86_64.jar | */opencl-*-linux-x86_64.jar) ;;
    *-linux-x86_64.jar) natives="$natives $jar" ;;
    *) libraries="$libraries $jar" ;;
  esac
done

# recompress NAME JAR...: the jars in one archive, which is kept. Sets $archive.
recompress() {
  name=$1
  shift
  archive=$cache/$name-$(for jar in "$@"; do basename "$jar"; wc -c <"$jar"; done | sha256sum | cut -c 1-16).tar.xz
  [ ! -f "$archive" ] || return 0
  echo "recompressing $name" >&2
  mkdir -p "$work/$name/lib"
  for jar in "$@"; do
    mkdir "$work/unpacked"
    (cd "$work/unpacked" && "$jdk/bin/jar" xf "$jar" && rm -rf org/bytedeco/openblas/linux-x86_64/include &&
      "$jdk/bin/jar" --create --no-manifest --no-compress --file "$work/$name/lib/$(basename "$jar")" .)
    rm -rf "$work/unpacked"
  done
  tar -C "$work/$name" -c lib | xz -T0 -6 >"$archive.new"
  mv "$archive.new" "$archive"
}
# shellcheck disable=SC2086
recompress natives $natives
natives=$archive
# shellcheck disable=SC2086
recompress libraries $libraries
libraries=$archive

# Classes as folders: some tests list what is beside them.
for module in $modules; do
  mkdir -p "$work/meanflow-gpu/classes/$module"
  cp -r "$module/target/classes/." "$work/meanflow-gpu/classes/$module/"
done
cp -r meanflow-nn/target/test-classes "$work/meanflow-gpu/classes/tests"
cp examples/target/launch/java.args tools/gpu/run.sh "$work/meanflow-gpu/"
cp -r tools/gpu/. "$work/meanflow-gpu/tools"
(git rev-parse HEAD 2>/dev/null || echo unknown) >"$work/meanflow-gpu/commit"

rm -f "$out"/meanflow-gpu.*.part* "$out/unpack.sh"
cp "$runtime" "$work/runtime.tar.xz"
tar -C "$work" -c meanflow-gpu | xz -T0 -6 >"$work/classes.tar.xz"
split -b 60000000 -a 2 "$work/runtime.tar.xz" "$out/meanflow-gpu.runtime.part"
split -b 60000000 -a 2 "$natives" "$out/meanflow-gpu.natives.part"
split -b 60000000 -a 2 "$libraries" "$out/meanflow-gpu.libraries.part"
split -b 60000000 -a 2 "$work/classes.tar.xz" "$out/meanflow-gpu.classes.part"
(cd "$out" && sha256sum meanflow-gpu.*.part* >meanflow-gpu.sha256)
cat >"$out/unpack.sh" <<'END'
#!/bin/sh
# Unpacks the pieces beside this script into ./meanflow-gpu.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
(cd "$here" && sha256sum -c --quiet meanflow-gpu.sha256)
mkdir -p meanflow-gpu
cat "$here"/meanflow-gpu.classes.part* | tar xJ
cat "$here"/meanflow-gpu.runtime.part* | tar xJ -C meanflow-gpu
for piece in natives libraries; do cat "$here"/meanflow-gpu.$piece.part* | tar xJ -C meanflow-gpu; done
chmod +x meanflow-gpu/run.sh
END
ls -l "$out" >&2
