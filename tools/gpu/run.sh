#!/bin/sh
# Runs what tools/gpu/bundle.sh packed, on a machine with a GPU.
#
#   run.sh info                            what the machine offers
#   run.sh test                            the tests of the cuda engine, on the GPU
#   run.sh sanitize                        the same under compute-sanitizer
#   run.sh measure OUT_DIR [PEER.py]       rows of the cuda engine into OUT_DIR/cuda.jsonl, of the peer into OUT_DIR/peer.jsonl
#   run.sh COMMAND ...                     any command of meanflow (bench …)
#
#   CONFIGS, PRECISIONS    for measure (digits … dit-xl2-32; fp32 tf32 bf16)
#   REPEAT                 flags for each bench (--warmup 40 --iters 30)
#   MEANFLOW_JAVA_OPTS     flags for the JVM
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
classes=
for folder in "$here"/classes/*/; do classes=$classes$folder:; done
MEANFLOW_CUDA_CACHE=${MEANFLOW_CUDA_CACHE:-$here/cubin}
export MEANFLOW_CUDA_CACHE
# Freed memory is kept, see ./meanflow.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}" MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1099511627776}"

java() {
  # shellcheck disable=SC2086
  ${SANITIZER:-} "$here/runtime/bin/java" "@$here/java.args" ${MEANFLOW_JAVA_OPTS:-} -Djava.io.tmpdir="${TMPDIR:-/tmp}" \
    "-Dmeanflow.commit=$(cut -c 1-7 "$here/commit")" \
    -cp "$classes$here/lib/*" "$@"
}

tests() {
  java -Dmeanflow.test.engine=cuda org.junit.platform.console.ConsoleLauncher execute --disable-banner --details=summary \
    --exclude-tag cuda-emulated \
    --select-class org.meanflow.nn.primitive.PrimitiveTest \
    --select-class org.meanflow.nn.parity.OpsParityTest \
    --select-class org.meanflow.nn.parity.DiTParityTest \
    --select-class org.meanflow.nn.parity.AdamWParityTest \
    --select-class org.meanflow.nn.engine.cuda.CudaTrainingTest \
    --select-class org.meanflow.nn.engine.cuda.RealLibrariesTest
}

case ${1:-} in
  test)
    tests
    ;;
  sanitize)
    # The JVM raises and handles signals of its own; only what happens on the GPU counts.
    SANITIZER="compute-sanitizer --tool memcheck --target-processes all --error-exitcode 9" tests
    ;;
  measure)
    out=$2
    peer=${3:-}
    mkdir -p "$out"
    failed=0
    for config in ${CONFIGS:-digits mnist-s2 latent-b4 dit-b4-256 dit-b2-64 dit-xl2-32}; do
      for precision in ${PRECISIONS:-fp32 tf32 bf16}; do
        for what in step sample; do
          # shellcheck disable=SC2086
          java org.meanflow.examples.MeanFlow bench --engine cuda --config "$config" --precision "$precision" --what "$what" \
            ${REPEAT:---warmup 40 --iters 30} --append "$out/cuda.jsonl" || failed=1
        done
        if [ -n "$peer" ]; then
          for variant in A B; do
            for compile in '' --compile; do
              # shellcheck disable=SC2086
              python3 "$peer" --config "$config" --precision "$precision" --variant "$variant" $compile >>"$out/peer.jsonl" || failed=1
            done
          done
        fi
      done
    done
    java org.meanflow.examples.MeanFlow bench --engine cuda --gemm --precision bf16 --append "$out/cuda.jsonl" || failed=1
    exit $failed
    ;;
  '' | -h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    ;;
  *)
    java org.meanflow.examples.MeanFlow "$@"
    ;;
esac
