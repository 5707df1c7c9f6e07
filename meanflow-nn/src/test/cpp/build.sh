#!/bin/sh
# Builds the emulated device into a folder: build.sh FOLDER. Prints the path of the library.
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
library="$folder/libcuda_emulated.so"
if [ ! -e "$library" ] || [ -n "$(find "$here" -newer "$library" -type f)" ]; then
  "${CXX:-g++}" -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -Wall \
    "$here/emulated_cuda.cpp" -o "$library.$$" -ldl -lpthread
  cp "$here/cuda_on_host.h" "$folder/cuda_on_host.h"
  mv "$library.$$" "$library"
fi
echo "$library"
