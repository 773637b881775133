#include "bench/qwen3/decoder.h"

#include <algorithm>
#include <string>

#include "bench/qwen3/error.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/ops.h"

namespace quire::qwen3 {
namespace {

// Rows that one task works on: enough to be worth waking a thread.
constexpr size_t kTaskRows = 32;

uint32_t pass_tokens(const Pass& pass) { return static_cast<uint32_t>(pass.tokens.size()); }

}  // namespace

Decoder::Decoder(const Model& model, ThreadPool& pool) : model_(model), pool_(pool) {
  use_single_threaded_blas();
}

template <typename Function>
void Decoder::for_rows(size_t count, const Function& function) const {
  const auto tasks = static_cast<uint32_t>((count + kTaskRows - 1) / kTaskRows);
  pool_.parallel_for(tasks, [&](uint32_t task) {
    const size_t end = std::min(count, (task + 1) * kTaskRows);
    for (size_t row = task * kTaskRows; row < end; ++row) function(row);
  });
}

std::span<const float> Decoder::forward(const Pass& pass, Attention& attention, uint32_t logit_rows,
                                        Observer* observer) {
  start(pass, space_);
  for (uint32_t layer = 0; layer < model_.config.layers; ++layer) {
    run_layer(layer, pass, attention, space_, observer);
  }
  final_.resize(space_.hidden.size());
  norm_rows(space_.hidden, model_.weights.final_norm, final_);
  if (observer != nullptr) observer->on_hidden(model_.config.layers, final_);

  const Matrix& head = model_.config.tied_embeddings ? model_.weights.embedding : model_.weights.head;
  logits_.resize(size_t{logit_rows} * head.rows);
  if (logit_rows == 0) return logits_;
  multiply(pool_, head, std::span(final_).last(size_t{logit_rows} * head.cols), logit_rows, logits_);
  return logits_;
}

void Decoder::recompute(const Pass& pass, Attention& attention, uint32_t layer) const {
  Workspace space;
  start(pass, space);
  for (uint32_t below = 0; below < layer; ++below) run_layer(below, pass, attention, space, nullptr);
  project_qkv(layer, pass, space, nullptr);
  append(layer, pass, attention, space);
}

void Decoder::start(const Pass& pass, Workspace& space) const {
  const ModelConfig& config = model_.config;
  const size_t n = pass.tokens.size();
  space.hidden.resize(n * config.hidden_size);
  space.normed.resize(n * config.hidden_size);
  space.qkv.resize(n * (config.query_size() + 2 * config.kv_size()));
  space.attended.resize(n * config.query_size());
  space.block.resize(n * config.hidden_size);
  space.gate_up.resize(n * 2 * config.intermediate_size);
  space.gated.resize(n * config.intermediate_size);
  if (pass.rope != nullptr) {
    space.rope = make_rope_table(*pass.rope, pass.first_position, pass_tokens(pass));
  }
  embed(pass, space);
}

void Decoder::embed(const Pass& pass, Workspace& space) const {
  const Matrix& table = model_.weights.embedding;
  for (size_t row = 0; row < pass.tokens.size(); ++row) {
    const int32_t token = pass.tokens[row];
    if (token < 0 || static_cast<uint32_t>(token) >= table.rows) {
      throw Error("token " + std::to_string(token) + " is outside the model's vocabulary of " +
                  std::to_string(table.rows));
    }
    const auto from = table.values.begin() + static_cast<int64_t>(size_t(token) * table.cols);
    std::transform(from, from + table.cols, space.hidden.begin() + static_cast<int64_t>(row * table.cols),
                   bf16_to_f32);
  }
}

void Decoder::run_layer(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                        Observer* observer) const {
  if (observer != nullptr) observer->on_hidden(layer, space.hidden);
  project_qkv(layer, pass, space, observer);
  append(layer, pass, attention, space);
  run_attention(layer, pass, attention, space, observer);
  run_mlp(layer, pass, space);
}

void Decoder::project_qkv(uint32_t layer, const Pass& pass, Workspace& space, Observer* observer) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  norm_rows(space.hidden, weights.input_norm, space.normed);
  multiply(pool_, weights.qkv, space.normed, pass.products, space.qkv);
  if (model_.config.family.qkv_bias) add_bias(weights.qkv_bias, space.qkv);
  if (model_.config.family.head_norms) norm_heads(weights, pass_tokens(pass), space);
  if (observer != nullptr) observer->on_qkv(layer, space.qkv);
  if (pass.rope == nullptr) return;
  rotate_heads(pass_tokens(pass), space);
  if (observer != nullptr) observer->on_rotated_qkv(layer, space.qkv);
}

void Decoder::append(uint32_t layer, const Pass& pass, Attention& attention, const Workspace& space) const {
  const ModelConfig& config = model_.config;
  const size_t stride = config.query_size() + 2 * size_t{config.kv_size()};
  const float* keys = space.qkv.data() + config.query_size();
  const uint32_t count = pass_tokens(pass);
  attention.append(layer, {keys, count, stride}, {keys + config.kv_size(), count, stride});
}

void Decoder::run_attention(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                            Observer* observer) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  attention.attend(layer, {space.qkv.data(), pass_tokens(pass), weights.qkv.rows}, space.attended);
  multiply(pool_, weights.output, space.attended, pass.products, space.block);
  if (observer != nullptr) observer->on_attention(layer, space.block);
  add(space.hidden, space.block);
}

void Decoder::run_mlp(uint32_t layer, const Pass& pass, Workspace& space) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  norm_rows(space.hidden, weights.post_attention_norm, space.normed);
  multiply(pool_, weights.gate_up, space.normed, pass.products, space.gate_up);
  const size_t n = model_.config.intermediate_size;
  for_rows(pass.tokens.size(), [&](size_t row) {
    swiglu(std::span(space.gate_up).subspan(row * 2 * n, 2 * n), std::span(space.gated).subspan(row * n, n));
  });
  multiply(pool_, weights.down, space.gated, pass.products, space.block);
  add(space.hidden, space.block);
}

void Decoder::add_bias(std::span<const float> bias, std::span<float> rows) const {
  for_rows(rows.size() / bias.size(),
           [&](size_t row) { add(rows.subspan(row * bias.size(), bias.size()), bias); });
}

void Decoder::norm_heads(const LayerWeights& weights, uint32_t count, Workspace& space) const {
  const ModelConfig& config = model_.config;
  for_rows(count, [&](size_t row) {
    auto heads = std::span(space.qkv).subspan(row * weights.qkv.rows, weights.qkv.rows);
    for (uint32_t head = 0; head < config.query_heads + config.kv_heads; ++head) {
      const auto values = heads.subspan(size_t{head} * config.head_dim, config.head_dim);
      rms_norm(values, head < config.query_heads ? weights.query_norm : weights.key_norm, config.rms_norm_eps,
               values);
    }
  });
}

void Decoder::rotate_heads(uint32_t count, Workspace& space) const {
  const ModelConfig& config = model_.config;
  const size_t stride = config.query_size() + 2 * size_t{config.kv_size()};
  for_rows(count, [&](size_t row) {
    auto heads = std::span(space.qkv).subspan(row * stride, stride);
    for (uint32_t head = 0; head < config.query_heads + config.kv_heads; ++head) {
      rotate(heads.subspan(size_t{head} * config.head_dim, config.head_dim), space.rope,
             static_cast<uint32_t>(row));
    }
  });
}

void Decoder::norm_rows(std::span<const float> rows, std::span<const float> weight,
                        std::span<float> out) const {
  const size_t n = weight.size();
  for_rows(rows.size() / n, [&](size_t row) {
    rms_norm(rows.subspan(row * n, n), weight, model_.config.rms_norm_eps, out.subspan(row * n, n));
  });
}

}  // namespace quire::qwen3
