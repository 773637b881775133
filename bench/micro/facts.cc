// quire-micro-facts: figures that no machine's speed can change, as JSON for pins.py: bytes of a page and
// errors of attention and of encoding, in the shape that most models have.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/micro/attention.h"
#include "bench/micro/page_cases.h"

namespace quire::micro {
namespace {

constexpr SectionShape kShape{64, 128};
constexpr uint16_t kKvHeads = 8;
constexpr size_t kTokens = 4096;
constexpr uint32_t kRows = 8;

std::string name_of(const PageKind& kind) {
  const std::string space = kind.key_space == KeySpace::kPreRope ? " pre_rope" : "";
  return std::string(find_codec(kind.key_codec)->name) + "/" +
         std::string(find_codec(kind.value_codec)->name) + space;
}

nlohmann::json page_bytes() {
  nlohmann::json bytes;
  for (const CodecInfo& key : kCodecs) {
    for (const CodecInfo& value : kCodecs) {
      const PageKind kind{key.id, value.id, KeySpace::kPostRope, 0, kKvHeads, kShape};
      bytes[name_of(kind)] = page_layout(kind).bytes;
    }
  }
  return bytes;
}

void add_errors(const CodecInfo& codec, KeySpace space, nlohmann::json* errors) {
  const PageKind kind{codec.id, codec.id, space, 0, 1, kShape};
  const auto heads = std::make_shared<const FoldedHeads>(make_folded_heads(best_kernels(), kind, kTokens, 1));
  if (space == KeySpace::kPostRope) {
    (*errors)["encode " + name_of(kind)] = *encode_case(heads, best_kernels(), 1).row.error;
  }
  // AMX's bits are AVX-512's.
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512}) {
    const Kernels* kernels = find_kernels(isa);
    if (kernels == nullptr) continue;
    const std::vector<float> q = make_queries(kRows, kShape.dim);
    (*errors)[std::string(isa_name(isa)) + " attend " + name_of(kind)] =
        attend_error(*kernels, *heads, q, heads->pages.size());
  }
}

int run() {
  nlohmann::json errors;
  for (const CodecInfo& codec : kCodecs) {
    add_errors(codec, KeySpace::kPostRope, &errors);
    if (codec.bits == 4) add_errors(codec, KeySpace::kPreRope, &errors);
  }
  std::printf("%s\n", nlohmann::json{{"page_bytes", page_bytes()}, {"error", errors}}.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace quire::micro

int main() { return quire::micro::run(); }
