#include "bench/qwen3/gguf_model.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "bench/qwen3/error.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/gguf.h"
#include "bench/qwen3/gguf_config.h"
#include "bench/qwen3/gguf_tokenizer.h"
#include "bench/qwen3/mapped_file.h"

namespace quire::qwen3 {
namespace {

struct NamePair {
  std::string_view hugging_face;
  std::string_view gguf;
};

// Parts of names; layers are "model.layers.N." and "blk.N.".
constexpr std::array<NamePair, 14> kNames{{{"model.embed_tokens.", "token_embd."},
                                           {"model.norm.", "output_norm."},
                                           {"lm_head.", "output."},
                                           {"model.layers.", "blk."},
                                           {"input_layernorm.", "attn_norm."},
                                           {"self_attn.q_proj.", "attn_q."},
                                           {"self_attn.k_proj.", "attn_k."},
                                           {"self_attn.v_proj.", "attn_v."},
                                           {"self_attn.o_proj.", "attn_output."},
                                           {"self_attn.q_norm.", "attn_q_norm."},
                                           {"self_attn.k_norm.", "attn_k_norm."},
                                           {"post_attention_layernorm.", "ffn_norm."},
                                           {"mlp.", "ffn_"},
                                           {"_proj.", "."}}};

std::string gguf_name(std::string name) {
  for (const NamePair& pair : kNames) {
    const size_t at = name.find(pair.hugging_face);
    if (at != std::string::npos) name.replace(at, pair.hugging_face.size(), pair.gguf);
  }
  return name;
}

// Row of the file for row `row` of the matrix: files of the llama architecture hold the two rows of a rotary
// pair one after the other, the decoder wants them half a head apart.
uint32_t interleaved_row(uint32_t row, uint32_t head_dim) {
  const uint32_t in_head = row % head_dim;
  const uint32_t half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

class GgufSource : public WeightSource {
 public:
  GgufSource(const Gguf& gguf, const ModelConfig& config, const std::string& name)
      : gguf_(gguf), config_(config), name_(name) {}

  std::vector<float> read_vector(const std::string& tensor, uint32_t size) const override {
    const GgufTensor& found = find(tensor, {size});
    std::vector<float> out(size);
    unfold(*found.type, found.bytes, out);
    return out;
  }

  void check_matrix(const std::string& tensor, uint32_t rows, uint32_t cols) const override {
    (void)find(tensor, {rows, cols});
  }

  void read_matrix(const std::string& tensor, uint32_t rows, uint32_t cols,
                   std::span<uint16_t> out) const override {
    const GgufTensor& found = find(tensor, {rows, cols});
    const bool interleaved = config_.family.name == "llama" &&
                             (tensor.ends_with("q_proj.weight") || tensor.ends_with("k_proj.weight"));
    const size_t row_bytes = found.bytes.size() / rows;
    std::vector<float> values(cols);
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t from = interleaved ? interleaved_row(row, config_.head_dim) : row;
      unfold(*found.type, found.bytes.subspan(from * row_bytes, row_bytes), values);
      std::transform(values.begin(), values.end(), out.begin() + static_cast<ptrdiff_t>(size_t{row} * cols),
                     f32_to_bf16);
    }
    forget_mapped(found.bytes);  // so that loading does not hold the model twice
  }

  // A tensor that nobody asked for would have changed the result.
  void check_all_read() const {
    for (const auto& [key, tensor] : gguf_.tensors) {
      if (!read_.contains(key)) {
        throw Error(name_ + " holds tensor " + key + ", which the decoder of " +
                    std::string(config_.family.name) + " has no use for");
      }
    }
  }

 private:
  const GgufTensor& find(const std::string& tensor, const std::vector<uint64_t>& shape) const {
    const std::string key = gguf_name(tensor);
    const auto it = gguf_.tensors.find(key);
    if (it == gguf_.tensors.end()) throw Error(name_ + " lacks tensor " + key + "; is the model complete?");
    if (it->second.shape != shape) {
      throw Error(name_ + ": tensor " + key + " has shape " + shape_text(it->second.shape) +
                  ", but its metadata asks for " + shape_text(shape));
    }
    read_.insert(key);
    return it->second;
  }

  const Gguf& gguf_;
  const ModelConfig& config_;
  const std::string& name_;
  mutable std::set<std::string> read_;
};

}  // namespace

Model load_gguf_model(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string name = path.string();
  const Gguf gguf = parse_gguf(file.bytes(), name);
  ModelConfig config = gguf_config(gguf, name);
  Tokenizer tokenizer = gguf_tokenizer(gguf, name);
  if (tokenizer.size() > config.vocab_size) {
    throw Error(name + ": its tokenizer has ids up to " + std::to_string(tokenizer.size() - 1) +
                ", but token_embd.weight has " + std::to_string(config.vocab_size) + " rows");
  }
  const GgufSource source(gguf, config, name);
  Weights weights = load_weights(source, config);
  source.check_all_read();
  return {path.stem().string(), std::move(config), std::move(weights), std::move(tokenizer)};
}

}  // namespace quire::qwen3
