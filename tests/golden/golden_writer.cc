// Prints the manifest of golden pages as the scalar reference writes them: golden_writer > pages.json
#include <iostream>

#include "tests/golden/manifest.h"

int main() {
  using namespace quire;
  const char* separator = "[\n";
  for (const golden::PageSpec& spec : golden::page_specs()) {
    const golden::Page page = golden::make_page(*find_kernels(Isa::kScalar), spec);
    std::cout << separator << golden::manifest_entry(spec, page).dump();
    separator = ",\n";
  }
  std::cout << "\n]\n";
  return std::cout.good() ? 0 : 1;
}
