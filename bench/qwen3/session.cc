#include "bench/qwen3/session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "bench/qwen3/error.h"
#include "bench/qwen3/fingerprint.h"
#include "bench/qwen3/page_notes.h"

namespace quire::qwen3 {
namespace {

quire_tensor tensor(const float* data, uint64_t stride, quire_place place) {
  quire_tensor out{};
  out.data = const_cast<float*>(data);  // the C API has one struct for inputs and outputs
  out.dtype = QUIRE_F32;
  out.place = place;
  out.token_stride = stride;
  return out;
}

TokenRows part_of(TokenRows rows, uint64_t first, uint64_t count) {
  return {rows.data + first * rows.stride, static_cast<uint32_t>(count), rows.stride};
}

}  // namespace

// An open step of the cache; it is ended in any case.
class Session::Step {
 public:
  // The chunks cover the tokens and say how they were read.
  Step(const Session& session, std::span<const ReadChunk> chunks, uint64_t first, uint64_t count)
      : cache_(session.cache_->handle()),
        parts_(attend_parts(session.cache_->options().prefill, session.select_, chunks, first,
                            static_cast<uint32_t>(count))) {
    const quire_step_entry entry{session.sequence_.get(), first, count};
    quire_step_options options{};
    options.struct_size = sizeof options;
    options.stream = session.decoder_->compute().stream();
    place_ = options.stream == nullptr ? QUIRE_PLACE_HOST : QUIRE_PLACE_DEVICE;
    check(quire_step_begin(cache_, &entry, 1, &options, &step_), cache_);
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  ~Step() {
    // An Error is under way, which says more than the step's end could.
    if (step_ != nullptr) [[maybe_unused]]
      const quire_status status = quire_step_end(step_);
  }

  const std::vector<AttendPart>& parts() const { return parts_; }

  void end() { check(quire_step_end(std::exchange(step_, nullptr)), cache_); }

  void append(uint32_t layer, TokenRows keys, TokenRows values) const {
    quire_append_args args;
    quire_append_args_init(&args);
    args.keys = tensor(keys);
    args.values = tensor(values);
    check(quire_append(step_, layer, &args), cache_);
  }

  // Attends the rows of `part`; the others of `out` become zero. False when pages are lost: *miss then names
  // them.
  bool attend(uint32_t layer, const AttendPart& part, TokenRows queries, std::span<float> out,
              quire_miss* miss) const {
    quire_attend_args args = args_of(part, queries);
    args.out = qwen3::tensor(out.data(), 0, place_);
    check(quire_attend(step_, layer, &args), cache_);
    const quire_status status = quire_step_wait(step_);
    if (status != QUIRE_MISS) {
      check(status, cache_);
      return true;
    }
    *miss = {};
    miss->struct_size = sizeof *miss;
    check(quire_step_miss(step_, miss), cache_);
    return false;
  }

  void choose_ahead(uint32_t layer, TokenRows queries) const {
    const quire_attend_args args = args_of(parts_.front(), queries);
    check(quire_choose_ahead(step_, layer, &args), cache_);
  }

 private:
  quire_attend_args args_of(const AttendPart& part, TokenRows queries) const {
    quire_attend_args args;
    quire_attend_args_init(&args);
    args.queries = tensor(queries);
    args.row_mask = part.rows.empty() ? nullptr : part.rows.data();
    set_selection(part.selection, &args);
    args.select_start = part.start.empty() ? nullptr : part.start.data();
    return args;
  }
  quire_tensor tensor(TokenRows rows) const { return qwen3::tensor(rows.data, rows.stride, place_); }

  quire_cache* cache_;
  quire_place place_ = QUIRE_PLACE_HOST;
  std::vector<AttendPart> parts_;
  quire_step* step_ = nullptr;
};

// Appends new tokens.
class Session::StepAttention : public Attention {
 public:
  StepAttention(Session& session, const Step& step, uint64_t first)
      : session_(session), step_(step), own_{first, {}, {}} {}
  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    own_.keys = keys;
    own_.values = values;
    step_.append(layer, keys, values);
  }
  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    session_.attend(step_, layer, queries, out, &own_);
  }
  bool chooses_ahead() const override {
    return session_.cache_->options().choose_ahead && own_.keys.count == 1 && step_.parts().size() == 1 &&
           step_.parts().front().selection.kind != QUIRE_SELECT_NONE;
  }
  void choose_ahead(uint32_t layer, TokenRows queries) override { step_.choose_ahead(layer, queries); }

 private:
  Session& session_;
  const Step& step_;
  OwnRows own_;
};

// Runs old tokens again up to `target`, whose keys and values it keeps instead of appending them.
class Session::ReplayAttention : public Attention {
 public:
  ReplayAttention(Session& session, const Step& step, uint32_t target)
      : session_(session), step_(step), target_(target) {}
  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    if (layer < target_) return step_.append(layer, keys, values);
    const Decoder& decoder = *session_.decoder_;
    result.add(decoder.compute(), keys, values, decoder.model().config.kv_size());
  }
  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    session_.attend(step_, layer, queries, out, nullptr);
  }
  KeysValues result;

 private:
  Session& session_;
  const Step& step_;
  uint32_t target_;
};

void Session::KeysValues::add(Compute& compute, TokenRows key_rows, TokenRows value_rows, uint32_t width) {
  const size_t at = keys.size();
  keys.resize(at + size_t{key_rows.count} * width);
  values.resize(keys.size());
  compute.load(key_rows, width, keys.data() + at);
  compute.load(value_rows, width, values.data() + at);
}

void Session::FreeSequence::operator()(quire_sequence* sequence) const {
  // It can only fail while a step is open, which the session does not leave behind.
  [[maybe_unused]] const quire_status status = quire_sequence_free(sequence);
}

Session::Session(Decoder& decoder, Cache& cache, uint64_t longest)
    : decoder_(&decoder), cache_(&cache), longest_(longest), select_(cache.options().select) {
  const ModelConfig& config = decoder.model().config;
  if (decoder.compute().on_device() && cache.options().device == QUIRE_DEVICE_CPU) {
    throw Error("the decoder computes on a device and the cache on the CPU; open the cache on that device");
  }
  if (longest > config.max_positions) {
    throw Error(std::to_string(longest) + " tokens are more than the model's " +
                std::to_string(config.max_positions) + " positions; shorten the text or scale its rope");
  }
  const uint64_t page_tokens = cache.options().page_tokens;
  replay_tokens_ = std::max<uint64_t>(1, cache.options().chunk_tokens / page_tokens) * page_tokens;
  rope_ = make_rope(config.rope, config.head_dim, config.max_positions, longest);
  quire_sequence* sequence = nullptr;
  check(quire_sequence_create(cache.handle(), &sequence), cache.handle());
  sequence_.reset(sequence);
  quire_rope rope{};
  rope.struct_size = sizeof rope;
  rope.rotary_dim = config.head_dim;
  rope.attention_factor = rope_.attention_factor;
  rope.inv_freq = rope_.inv_freq.data();
  check(quire_sequence_set_rope(sequence, &rope), cache.handle());
}

Session::Session(const Session& other, Sequence sequence)
    : decoder_(other.decoder_),
      cache_(other.cache_),
      rope_(other.rope_),
      longest_(other.longest_),
      select_(other.select_),
      sequence_(std::move(sequence)),
      tokens_(other.tokens_),
      chunks_(other.chunks_),
      replay_tokens_(other.replay_tokens_) {}

Session Session::fork() const {
  quire_sequence* sequence = nullptr;
  check(quire_sequence_fork(sequence_.get(), &sequence), cache_->handle());
  return {*this, Sequence(sequence)};
}

Session Session::fork(const SelectionOptions& select) const {
  const bool chose =
      std::any_of(chunks_.begin(), chunks_.end(), [](const ReadChunk& c) { return c.by_token; });
  if (chose && !(select == select_)) {
    throw Error("tokens were read that chose pages one by one; fork before them to choose in another way");
  }
  Session out = fork();
  out.select_ = select;
  return out;
}

const Rope* Session::decoder_rope() const {
  return cache_->options().key_space == QUIRE_POST_ROPE ? &rope_ : nullptr;
}

std::span<const float> Session::read(std::span<const int32_t> chunk, uint32_t logit_rows,
                                     Observer* observer) {
  const uint64_t first = length();
  read_part(chunk, first, first + chunk.size(), logit_rows, observer);
  return logits();
}

void Session::read_part(std::span<const int32_t> chunk, uint64_t chunk_first, uint64_t chunk_end,
                        uint32_t logit_rows, Observer* observer) {
  const uint64_t first = length();
  if (chunk.size() > longest_ - first) {
    throw Error("the text grows beyond the " + std::to_string(longest_) + " tokens it was announced with");
  }
  const auto count = static_cast<uint32_t>(chunk.size());
  const ProductRows rows{count, static_cast<uint32_t>(first - chunk_first),
                         static_cast<uint32_t>(chunk_end - chunk_first)};
  const ReadChunk read_so{first + count, logit_rows > 0 || rows.rows == 1, chunk_first, chunk_end};
  Step step(*this, {&read_so, 1}, first, count);
  StepAttention attention(*this, step, first);
  decoder_->run({chunk, first, {&rows, 1}, decoder_rope()}, attention, logit_rows, observer);
  step.end();
  tokens_.append(chunk);
  chunks_.push_back(read_so);
}

quire_prefix Session::prefix_of(std::span<const int32_t> tokens, const PrefixOwner& owner) const {
  quire_prefix prefix;
  quire_prefix_init(&prefix);
  const bool shared = owner.tenant == PrefixOwner{}.tenant;
  prefix.shared = shared ? 1 : 0;
  prefix.tenant[0] = owner.tenant[0];
  prefix.tenant[1] = owner.tenant[1];
  // There are no adapters here; what else may differ between sessions of a cache is the rotation.
  prefix.adapter = rope_fingerprint(rope_);
  prefix.tokens = tokens.data();
  prefix.count = tokens.size();
  return prefix;
}

uint64_t Session::adopt(std::span<const int32_t> text, const PrefixOwner& owner) {
  if (length() > 0) throw Error("a session adopts before it reads; make a new one");
  if (text.empty()) return 0;
  const uint32_t page_tokens = cache_->options().page_tokens;
  quire_prefix prefix = prefix_of(text.first(text.size() - 1), owner);
  std::vector<uint8_t> notes(prefix.count / page_tokens * QUIRE_NOTE_BYTES);
  prefix.notes = notes.empty() ? nullptr : notes.data();
  uint64_t adopted = 0;
  check(quire_prefix_adopt(sequence_.get(), &prefix, &adopted), cache_->handle());
  tokens_.append(text.first(adopted));
  chunks_ = chunks_of(notes, page_tokens, adopted / page_tokens, cache_->options().chunk_tokens);
  return adopted;
}

uint64_t Session::publish(const PrefixOwner& owner) const {
  const uint32_t page_tokens = cache_->options().page_tokens;
  const std::vector<int32_t> tokens = tokens_.copy(0, length());
  quire_prefix prefix = prefix_of(tokens, owner);
  std::vector<uint8_t> notes = notes_of(chunks_, page_tokens, length() / page_tokens);
  prefix.notes = notes.empty() ? nullptr : notes.data();
  uint64_t blocks = 0;
  check(quire_prefix_publish(sequence_.get(), &prefix, &blocks), cache_->handle());
  return blocks;
}

void Session::attend(const Step& step, uint32_t layer, TokenRows queries, std::span<float> out,
                     const OwnRows* own) {
  const std::vector<AttendPart>& parts = step.parts();
  attend_part(step, parts[0], layer, queries, out, own);
  if (parts.size() == 1) return;
  std::vector<float> rest(out.size());
  attend_part(step, parts[1], layer, queries, rest, own);
  const size_t width = out.size() / queries.count;
  for (size_t row = 0; row < queries.count; ++row) {
    if (parts[1].rows[row] != 0) std::copy_n(rest.data() + row * width, width, out.data() + row * width);
  }
}

void Session::attend_part(const Step& step, const AttendPart& part, uint32_t layer, TokenRows queries,
                          std::span<float> out, const OwnRows* own) {
  // Every page may be lost once and once more while others are recovered; beyond that it does not end.
  const uint64_t attempts = 2 * (length() / cache_->options().page_tokens) + 16;
  quire_miss miss{};
  for (uint64_t attempt = 0; attempt < attempts; ++attempt) {
    if (step.attend(layer, part, queries, out, &miss)) return;
    recover(miss, own);
  }
  throw Error("the cache loses pages faster than they can be computed again; check the disk under " +
              cache_->options().nvme_path + " or raise the host budget");
}

void Session::recover(const quire_miss& miss, const OwnRows* own) {
  const uint64_t page_tokens = cache_->options().page_tokens;
  const uint64_t miss_end = miss.first + miss.count;
  for (uint64_t first = miss.first; first < miss_end;) {
    const uint64_t end = std::min(miss_end, first + replay_tokens_);
    try {
      recover_batch(miss.layer, first, end, own);
      first = end;
    } catch (const OverBudget&) {
      // Every cache that opens has room to recover page by page, but not inside a larger replay.
      if (end - first <= page_tokens) throw;
      replay_tokens_ = page_tokens;
    }
  }
}

void Session::recover_batch(uint32_t layer, uint64_t first, uint64_t end, const OwnRows* own) {
  const uint64_t old_end = own == nullptr ? end : std::clamp(own->first, first, end);
  KeysValues rows;
  if (old_end > first) rows = recompute(layer, first, old_end - first);
  if (end > old_end) {  // a page of the running step itself: its rows are at hand
    const uint64_t at = old_end - own->first;
    const uint32_t width = decoder_->model().config.kv_size();
    rows.add(decoder_->compute(), part_of(own->keys, at, end - old_end),
             part_of(own->values, at, end - old_end), width);
  }
  const quire_tensor keys = tensor(rows.keys.data(), 0, QUIRE_PLACE_HOST);
  const quire_tensor values = tensor(rows.values.data(), 0, QUIRE_PLACE_HOST);
  check(quire_refill(sequence_.get(), layer, first, end - first, &keys, &values), cache_->handle());
  recomputed_ += old_end - first;
}

Session::KeysValues Session::recompute(uint32_t layer, uint64_t first, uint64_t count) {
  const std::vector<ProductRows> products = recorded_products(first, count);
  Step step(*this, chunks_, first, count);
  ReplayAttention attention(*this, step, layer);
  const std::vector<int32_t> tokens = tokens_.copy(first, count);
  const Pass pass{tokens, first, products, decoder_rope()};
  decoder_->recompute(pass, attention, layer);
  step.end();
  return std::move(attention.result);
}

std::vector<ProductRows> Session::recorded_products(uint64_t first, uint64_t count) const {
  std::vector<ProductRows> products;
  const auto after = [](uint64_t position, const ReadChunk& chunk) { return position < chunk.end; };
  auto chunk = std::upper_bound(chunks_.begin(), chunks_.end(), first, after);
  const uint64_t end = first + count;
  for (; first < end; ++chunk) {
    const uint64_t part_end = std::min(end, chunk->end);
    products.push_back({static_cast<uint32_t>(part_end - first),
                        static_cast<uint32_t>(first - chunk->product_first),
                        static_cast<uint32_t>(chunk->product_end - chunk->product_first)});
    first = part_end;
  }
  return products;
}

}  // namespace quire::qwen3
