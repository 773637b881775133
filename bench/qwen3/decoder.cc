#include "bench/qwen3/decoder.h"

#include <string>
#include <utility>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

uint32_t pass_tokens(const Pass& pass) { return static_cast<uint32_t>(pass.tokens.size()); }

}  // namespace

Decoder::Decoder(const Model& model, ThreadPool& pool, uint32_t device)
    : model_(model),
      compute_(make_compute(model, pool, device)),
      space_(*compute_),
      final_(*compute_),
      logits_(*compute_) {}

HeadShape Decoder::heads() const {
  return {model_.config.query_heads, model_.config.kv_heads, model_.config.head_dim};
}

const Matrix& Decoder::head() const {
  return model_.config.tied_embeddings ? model_.weights.embedding : model_.weights.head;
}

std::span<const float> Decoder::on_host(const RowBuffer& rows, std::vector<float>& to) const {
  if (!compute_->on_device()) return rows.rows();
  to.resize(rows.size());
  if (!to.empty()) {
    const auto width = static_cast<uint32_t>(rows.size());
    compute_->load({rows.data(), 1, rows.size()}, width, to.data());
  }
  return to;
}

void Decoder::run(const Pass& pass, Attention& attention, uint32_t logit_rows, Observer* observer) {
  start(pass, space_);
  for (uint32_t layer = 0; layer < model_.config.layers; ++layer) {
    run_layer(layer, pass, attention, space_, observer);
  }
  final_.resize(space_.hidden.size());
  compute_->norm(space_.hidden.rows(), model_.weights.final_norm, model_.config.rms_norm_eps, final_.rows());
  if (observer != nullptr) observer->on_hidden(model_.config.layers, on_host(final_, space_.seen));

  logits_.resize(size_t{logit_rows} * head().rows);
  if (logit_rows == 0) return;
  const auto last = std::as_const(final_).rows().last(size_t{logit_rows} * head().cols);
  compute_->multiply(head(), last, logit_rows, logits_.rows());
}

std::span<const float> Decoder::logits() { return on_host(logits_, host_logits_); }

int32_t Decoder::sample(Sampler& sampler) {
  return compute_->sample(std::as_const(logits_).rows().last(head().rows), sampler);
}

std::span<const float> Decoder::forward(const Pass& pass, Attention& attention, uint32_t logit_rows,
                                        Observer* observer) {
  run(pass, attention, logit_rows, observer);
  return logits();
}

void Decoder::recompute(const Pass& pass, Attention& attention, uint32_t layer) const {
  Workspace space(*compute_);
  start(pass, space);
  for (uint32_t below = 0; below < layer; ++below) run_layer(below, pass, attention, space, nullptr);
  compute_qkv(layer, pass, space, nullptr);
  append(layer, pass, attention, space);
}

void Decoder::start(const Pass& pass, Workspace& space) const {
  const ModelConfig& config = model_.config;
  check_tokens(pass);
  const size_t n = pass.tokens.size();
  space.hidden.resize(n * config.hidden_size);
  space.normed.resize(n * config.hidden_size);
  space.qkv.resize(n * heads().stride());
  space.attended.resize(n * config.query_size());
  space.block.resize(n * config.hidden_size);
  space.gate_up.resize(n * 2 * config.intermediate_size);
  space.gated.resize(n * config.intermediate_size);
  if (pass.rope != nullptr) {
    const RopeTable table = make_rope_table(*pass.rope, pass.first_position, pass_tokens(pass));
    space.angles.resize(2 * table.cosines.size());
    compute_->store(table.cosines, space.angles.rows().first(table.cosines.size()));
    compute_->store(table.sines, space.angles.rows().last(table.sines.size()));
  }
  compute_->embed(model_.weights.embedding, pass.tokens, space.hidden.rows());
}

void Decoder::check_tokens(const Pass& pass) const {
  const uint32_t vocab = model_.weights.embedding.rows;
  for (const int32_t token : pass.tokens) {
    if (token >= 0 && static_cast<uint32_t>(token) < vocab) continue;
    throw Error("token " + std::to_string(token) + " is outside the model's vocabulary of " +
                std::to_string(vocab));
  }
}

void Decoder::run_layer(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                        Observer* observer) const {
  if (observer != nullptr) observer->on_hidden(layer, on_host(space.hidden, space.seen));
  compute_qkv(layer, pass, space, observer);
  append(layer, pass, attention, space);
  if (layer + 1 < model_.config.layers && attention.chooses_ahead()) {
    guess_queries(layer + 1, pass, attention, space);
  }
  run_attention(layer, pass, attention, space, observer);
  run_mlp(layer, pass, space);
}

// From the stream as it is to queries, keys and values before rotation.
void Decoder::project_qkv(uint32_t layer, const Pass& pass, Workspace& space, std::span<float> qkv) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  const float eps = model_.config.rms_norm_eps;
  compute_->norm(space.hidden.rows(), weights.input_norm, eps, space.normed.rows());
  compute_->multiply(weights.qkv, space.normed.rows(), pass.products, qkv);
  if (model_.config.family.qkv_bias) compute_->add_bias(qkv, weights.qkv_bias);
  if (model_.config.family.head_norms) {
    compute_->norm_heads(qkv, heads(), weights.query_norm, weights.key_norm, eps);
  }
}

void Decoder::rotate_qkv(const Pass& pass, const Workspace& space, std::span<float> qkv) const {
  if (pass.rope != nullptr) compute_->rotate_heads(qkv, heads(), space.angles.rows());
}

void Decoder::compute_qkv(uint32_t layer, const Pass& pass, Workspace& space, Observer* observer) const {
  project_qkv(layer, pass, space, space.qkv.rows());
  if (observer != nullptr) observer->on_qkv(layer, on_host(space.qkv, space.seen));
  rotate_qkv(pass, space, space.qkv.rows());
  if (observer != nullptr && pass.rope != nullptr) {
    observer->on_rotated_qkv(layer, on_host(space.qkv, space.seen));
  }
}

// A layer adds little to the stream: what it begins with is nearly what the next one does (InfiniGen, arXiv
// 2406.19707).
void Decoder::guess_queries(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space) const {
  space.next_qkv.resize(space.qkv.size());
  project_qkv(layer, pass, space, space.next_qkv.rows());
  rotate_qkv(pass, space, space.next_qkv.rows());
  attention.choose_ahead(layer, {space.next_qkv.data(), pass_tokens(pass), heads().stride()});
}

void Decoder::append(uint32_t layer, const Pass& pass, Attention& attention, const Workspace& space) const {
  const ModelConfig& config = model_.config;
  const float* keys = space.qkv.data() + config.query_size();
  const uint32_t count = pass_tokens(pass);
  const size_t stride = heads().stride();
  attention.append(layer, {keys, count, stride}, {keys + config.kv_size(), count, stride});
}

void Decoder::run_attention(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                            Observer* observer) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  const std::span<float> attended = space.attended.rows();
  attention.attend(layer, {space.qkv.data(), pass_tokens(pass), heads().stride()}, attended);
  compute_->multiply(weights.output, attended, pass.products, space.block.rows());
  if (observer != nullptr) observer->on_attention(layer, on_host(space.block, space.seen));
  compute_->add(space.hidden.rows(), space.block.rows());
}

void Decoder::run_mlp(uint32_t layer, const Pass& pass, Workspace& space) const {
  const LayerWeights& weights = model_.weights.layers[layer];
  const ModelConfig& config = model_.config;
  compute_->norm(space.hidden.rows(), weights.post_attention_norm, config.rms_norm_eps, space.normed.rows());
  compute_->multiply(weights.gate_up, space.normed.rows(), pass.products, space.gate_up.rows());
  compute_->swiglu(space.gate_up.rows(), config.intermediate_size, space.gated.rows());
  compute_->multiply(weights.down, space.gated.rows(), pass.products, space.block.rows());
  compute_->add(space.hidden.rows(), space.block.rows());
}

}  // namespace quire::qwen3
