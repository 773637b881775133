# shellcheck shell=bash
# The peers' Python environment, build/peers; sourced, from the repository's root.

# What the scripts need besides llama.cpp.
peer_packages=(torch==2.15.0 numpy safetensors==0.8.0 tokenizers==0.23.3 gguf==0.19.0 diskcache jinja2 typing-extensions)

# build_llama_cpp: llama.cpp, ggml with it, for this processor, from the source package of llama-cpp-python on PyPI.
build_llama_cpp() {
  local package=llama-cpp-python==0.3.36
  ! ls build/peers/lib/python3*/site-packages/include/ggml-cpu.h >/dev/null 2>&1 || return 0
  echo "== building $package (log: build/logs/peers.log)"
  {
    [[ -x build/peers/bin/pip ]] || /usr/bin/python3 -m venv build/peers  # what else is installed there stays
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF" \
      build/peers/bin/pip install --verbose --no-deps --no-binary llama-cpp-python "$package"
  } >build/logs/peers.log 2>&1 || fail "$package could not be fetched or built (see build/logs/peers.log)"
}

# install_peer_packages: into the same environment.
install_peer_packages() {
  ! build/peers/bin/python -c 'import torch, tokenizers, gguf, safetensors, llama_cpp' 2>/dev/null || return 0
  echo "== installing ${peer_packages[*]} (log: build/logs/peers-packages.log)"
  build/peers/bin/pip install "${peer_packages[@]}" >build/logs/peers-packages.log 2>&1 ||
    fail "the packages could not be installed (see build/logs/peers-packages.log)"
}
