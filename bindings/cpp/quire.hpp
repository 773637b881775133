// Quire for C++: owning handles over quire.h, nothing else. Header only, C++17.
//
//     quire::Cache cache(options);
//     quire::Sequence sequence = cache.create_sequence();
//     quire::Step step = cache.begin({{sequence, first, count}});
//     for each layer:
//       step.append(layer, keys, values);
//       step.attend(layer, queries, out);
//       if (step.wait() == quire::Outcome::kMiss) { ... quire.h tells what to do about step.miss() ... }
//     step.end();
//
// Invariants: a handle owns its C object, is move-only, and may be used only while it is not moved from. The
// C cache lives until its Cache and every Sequence and Step of it are gone, so their order does not matter.
//
// Errors: a call that fails throws quire::Error. A miss is no failure and is returned as an Outcome.
// Destructors do not throw: call end() and close() where their failure matters.
//
// Thread safety, units, shapes and lifetimes of memory: as quire.h states for the C function of the same
// name.
#ifndef QUIRE_HPP_
#define QUIRE_HPP_

#include <quire.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace quire {
// The library has classes of the same names inside; the inline namespace keeps their symbols apart from these
// where a program links the archive.
inline namespace binding {

class Error : public std::runtime_error {
 public:
  Error(quire_status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
  quire_status status() const noexcept { return status_; }

 private:
  quire_status status_;
};

enum class Outcome { kDone, kMiss, kNotReady };

namespace detail {

// For destructors, which have nobody to tell.
inline void ignore(quire_status /*status*/) noexcept {}

// Owns the C cache; close is idempotent.
class CacheHandle {
 public:
  explicit CacheHandle(quire_cache* cache) noexcept : cache_(cache) {}
  CacheHandle(const CacheHandle&) = delete;
  CacheHandle& operator=(const CacheHandle&) = delete;
  ~CacheHandle() { ignore(close()); }

  quire_cache* get() const noexcept { return cache_; }
  quire_status close() noexcept { return quire_close(std::exchange(cache_, nullptr)); }

 private:
  quire_cache* cache_;
};

using SharedCache = std::shared_ptr<CacheHandle>;

[[noreturn]] inline void fail(quire_status status, const quire_cache* cache) {
  const std::string sentence = quire_last_error(cache);
  throw Error(status, sentence.empty() ? quire_strerror(status) : sentence);
}

inline void check(quire_status status, const quire_cache* cache) {
  if (status != QUIRE_OK) fail(status, cache);
}

inline Outcome check_outcome(quire_status status, const quire_cache* cache) {
  if (status == QUIRE_MISS) return Outcome::kMiss;
  if (status == QUIRE_NOT_READY) return Outcome::kNotReady;
  check(status, cache);
  return Outcome::kDone;
}

inline quire_tensor tensor(const void* data, quire_dtype dtype, uint64_t token_stride, uint64_t head_stride) {
  quire_tensor out{};
  out.data = const_cast<void*>(data);  // the C struct serves inputs and outputs alike
  out.dtype = dtype;
  out.place = QUIRE_PLACE_HOST;
  out.token_stride = token_stride;
  out.head_stride = head_stride;
  return out;
}

}  // namespace detail

// Host tensors, [tokens][heads][head_dim]; strides in elements, 0 = dense. An input is only read.
inline quire_tensor input(const void* data, quire_dtype dtype, uint64_t token_stride = 0,
                          uint64_t head_stride = 0) {
  return detail::tensor(data, dtype, token_stride, head_stride);
}
inline quire_tensor output(void* data, quire_dtype dtype, uint64_t token_stride = 0,
                           uint64_t head_stride = 0) {
  return detail::tensor(data, dtype, token_stride, head_stride);
}
inline quire_tensor input(const float* data) { return input(data, QUIRE_F32); }
inline quire_tensor output(float* data) { return output(data, QUIRE_F32); }

// Structs with struct_size and the defaults filled in.
inline quire_options default_options() {
  quire_options options;
  quire_options_init(&options);
  return options;
}
inline quire_layer_options default_layer_options() {
  quire_layer_options options;
  quire_layer_options_init(&options);
  return options;
}
inline quire_append_args default_append_args() {
  quire_append_args args;
  quire_append_args_init(&args);
  return args;
}
inline quire_attend_args default_attend_args() {
  quire_attend_args args;
  quire_attend_args_init(&args);
  return args;
}

// Args of selective attention (quire.h, quire_selection): the `pages` that weigh most, a share of all, or as
// many as hold `mass`, beside those of the last `window` tokens.
inline quire_attend_args top_pages(uint32_t pages, uint64_t window = 0) {
  quire_attend_args args = default_attend_args();
  args.selection = QUIRE_SELECT_TOP_PAGES;
  args.select_pages = pages;
  args.select_window = window;
  return args;
}
inline quire_attend_args share_of_pages(float share, uint64_t window = 0) {
  quire_attend_args args = top_pages(0, window);
  args.select_share = share;
  return args;
}
inline quire_attend_args mass_of(float mass, uint64_t window = 0) {
  quire_attend_args args = default_attend_args();
  args.selection = QUIRE_SELECT_MASS;
  args.select_mass = mass;
  args.select_window = window;
  return args;
}

// Args of prefix reuse (quire.h, quire_prefix): a tenant's own blocks, or with shared_prefix those of all who
// share. The tokens must stay while the struct is used.
inline quire_prefix shared_prefix(const std::vector<int32_t>& tokens) {
  quire_prefix prefix;
  quire_prefix_init(&prefix);
  prefix.tokens = tokens.data();
  prefix.count = tokens.size();
  prefix.shared = 1;
  return prefix;
}
inline quire_prefix tenant_prefix(const std::vector<int32_t>& tokens, uint64_t secret_low,
                                  uint64_t secret_high) {
  quire_prefix prefix = shared_prefix(tokens);
  prefix.shared = 0;
  prefix.tenant[0] = secret_low;
  prefix.tenant[1] = secret_high;
  return prefix;
}

inline quire_capabilities_info capabilities() {
  quire_capabilities_info info{};
  info.struct_size = sizeof info;
  detail::check(quire_capabilities(&info), nullptr);
  return info;
}

// Tokens of one sequence. End every Step that holds it before it is destroyed.
class Sequence {
 public:
  Sequence(Sequence&& other) noexcept
      : cache_(std::move(other.cache_)), sequence_(std::exchange(other.sequence_, nullptr)) {}
  Sequence& operator=(Sequence&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(sequence_, other.sequence_);
    return *this;
  }
  ~Sequence() {
    if (sequence_ != nullptr) detail::ignore(quire_sequence_free(sequence_));
  }

  Sequence fork() const {
    quire_sequence* copy = nullptr;
    detail::check(quire_sequence_fork(sequence_, &copy), cache_->get());
    return Sequence(cache_, copy);
  }
  uint64_t length() const {
    uint64_t tokens = 0;
    detail::check(quire_sequence_length(sequence_, &tokens), cache_->get());
    return tokens;
  }
  // kMiss: the page that holds `length` is lost; nothing has changed.
  [[nodiscard]] Outcome truncate(uint64_t length) {
    return detail::check_outcome(quire_sequence_truncate(sequence_, length), cache_->get());
  }
  // inv_freq: [rotary_dim / 2], copied.
  void set_rope(const std::vector<double>& inv_freq, uint32_t epoch = 0, float attention_factor = 1.0F) {
    quire_rope rope{};
    rope.struct_size = sizeof rope;
    rope.epoch = epoch;
    rope.rotary_dim = static_cast<uint32_t>(2 * inv_freq.size());
    rope.attention_factor = attention_factor;
    rope.inv_freq = inv_freq.data();
    detail::check(quire_sequence_set_rope(sequence_, &rope), cache_->get());
  }
  void refill(uint32_t layer, uint64_t first, uint64_t count, const quire_tensor& keys,
              const quire_tensor& values) {
    detail::check(quire_refill(sequence_, layer, first, count, &keys, &values), cache_->get());
  }
  void prefetch(uint32_t layer, uint64_t first, uint64_t count) {
    detail::check(quire_prefetch(sequence_, layer, first, count), cache_->get());
  }

  // Fills the sequence, which must be empty, with the known blocks that the prefix begins with; returns how
  // many tokens it has then.
  uint64_t adopt(const quire_prefix& prefix) {
    uint64_t tokens = 0;
    detail::check(quire_prefix_adopt(sequence_, &prefix, &tokens), cache_->get());
    return tokens;
  }
  // Makes the blocks of the prefix, which are the sequence's, known; returns how many the store did not have.
  uint64_t publish(const quire_prefix& prefix) {
    uint64_t blocks = 0;
    detail::check(quire_prefix_publish(sequence_, &prefix, &blocks), cache_->get());
    return blocks;
  }

  quire_sequence* get() const noexcept { return sequence_; }

 private:
  friend class Cache;
  Sequence(detail::SharedCache cache, quire_sequence* sequence) noexcept
      : cache_(std::move(cache)), sequence_(sequence) {}

  detail::SharedCache cache_;
  quire_sequence* sequence_;
};

// Tokens [first, first + count) of one sequence of a step.
struct Entry {
  const Sequence& sequence;
  uint64_t first;
  uint64_t count;
};

// One forward pass. The destructor ends a step that was not ended and ignores how that went.
class Step {
 public:
  Step(Step&& other) noexcept : cache_(std::move(other.cache_)), step_(std::exchange(other.step_, nullptr)) {}
  Step& operator=(Step&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(step_, other.step_);
    return *this;
  }
  ~Step() {
    if (step_ != nullptr) detail::ignore(quire_step_end(step_));
  }

  void append(uint32_t layer, const quire_append_args& args) {
    detail::check(quire_append(step_, layer, &args), cache_->get());
  }
  void append(uint32_t layer, const quire_tensor& keys, const quire_tensor& values) {
    quire_append_args args = default_append_args();
    args.keys = keys;
    args.values = values;
    append(layer, args);
  }
  void attend(uint32_t layer, const quire_attend_args& args) {
    detail::check(quire_attend(step_, layer, &args), cache_->get());
  }
  void attend(uint32_t layer, const quire_tensor& queries, const quire_tensor& out) {
    quire_attend_args args = default_attend_args();
    args.queries = queries;
    args.out = out;
    attend(layer, args);
  }

  void choose_ahead(uint32_t layer, const quire_attend_args& args) {
    detail::check(quire_choose_ahead(step_, layer, &args), cache_->get());
  }

  [[nodiscard]] Outcome wait() { return detail::check_outcome(quire_step_wait(step_), cache_->get()); }
  [[nodiscard]] Outcome poll() { return detail::check_outcome(quire_step_poll(step_), cache_->get()); }
  // Owned by the step.
  int eventfd() {
    int descriptor = -1;
    detail::check(quire_step_eventfd(step_, &descriptor), cache_->get());
    return descriptor;
  }
  quire_miss miss() const {
    quire_miss miss{};
    miss.struct_size = sizeof miss;
    detail::check(quire_step_miss(step_, &miss), cache_->get());
    return miss;
  }
  // The step is gone afterwards, also when this throws.
  void end() { detail::check(quire_step_end(std::exchange(step_, nullptr)), cache_->get()); }

  quire_step* get() const noexcept { return step_; }

 private:
  friend class Cache;
  Step(detail::SharedCache cache, quire_step* step) noexcept : cache_(std::move(cache)), step_(step) {}

  detail::SharedCache cache_;
  quire_step* step_;
};

class Cache {
 public:
  explicit Cache(const quire_options& options) {
    quire_cache* cache = nullptr;
    detail::check(quire_open(&options, &cache), nullptr);
    cache_ = std::make_shared<detail::CacheHandle>(cache);
  }
  Cache(Cache&&) noexcept = default;
  Cache& operator=(Cache&&) noexcept = default;
  ~Cache() = default;

  Sequence create_sequence() {
    quire_sequence* sequence = nullptr;
    detail::check(quire_sequence_create(cache_->get(), &sequence), cache_->get());
    return Sequence(cache_, sequence);
  }
  Step begin(const std::vector<Entry>& entries, const quire_step_options* options = nullptr) {
    std::vector<quire_step_entry> plain;
    plain.reserve(entries.size());
    for (const Entry& entry : entries) plain.push_back({entry.sequence.get(), entry.first, entry.count});
    quire_step* step = nullptr;
    detail::check(quire_step_begin(cache_->get(), plain.data(), plain.size(), options, &step), cache_->get());
    return Step(cache_, step);
  }
  // Tokens that a new sequence could adopt.
  uint64_t match(const quire_prefix& prefix) const {
    uint64_t tokens = 0;
    detail::check(quire_prefix_match(cache_->get(), &prefix, &tokens), cache_->get());
    return tokens;
  }
  void flush() { detail::check(quire_flush(cache_->get()), cache_->get()); }
  quire_stats stats() const {
    quire_stats stats{};
    stats.struct_size = sizeof stats;
    detail::check(quire_cache_stats(cache_->get(), &stats), cache_->get());
    return stats;
  }
  // The statistics as Prometheus text.
  std::string prometheus() const {
    std::string text(8192, '\0');
    uint64_t length = 0;
    while (quire_cache_prometheus(cache_->get(), text.data(), text.size(), &length) != QUIRE_OK) {
      if (length < text.size()) detail::fail(QUIRE_INTERNAL, cache_->get());
      text.resize(length + 4096);
    }
    text.resize(length);
    return text;
  }
  // Closes at once and reports how that went; every Sequence and Step must be gone.
  void close() {
    if (cache_.use_count() != 1) {
      throw Error(QUIRE_INVALID, "the cache still has sequences or steps: destroy them before Cache::close");
    }
    detail::check(cache_->close(), nullptr);
  }

  quire_cache* get() const noexcept { return cache_->get(); }

 private:
  detail::SharedCache cache_;
};

}  // namespace binding
}  // namespace quire

#endif  // QUIRE_HPP_
