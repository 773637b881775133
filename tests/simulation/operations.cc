// What a simulation does to its engine and its twin, and how it compares them.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/simulation/simulation.h"
#include "tests/simulation/tokens.h"

namespace quire::testing {
namespace {

constexpr size_t kMostTracks = 4;
constexpr uint64_t kMostTokens = 1500;  // of one sequence
constexpr int kMostAttempts = 400;      // of an attend that misses
constexpr int kPatientAttempts = 40;    // after which its disk behaves

// In percent, by Operation.
constexpr std::array<uint32_t, kOperationCount> kWeights{31, 7, 7, 4, 6, 7, 5, 8, 4, 5, 4, 4, 6, 2};

}  // namespace

Operation Simulation::choose_operation() {
  uint64_t at = random_.below(100);
  for (size_t i = 0; i < kOperationCount; ++i) {
    const bool known = store_budget_ != 0 || i < kOperationCount - kStoreOperations;
    if (at < kWeights[i]) return known ? static_cast<Operation>(i) : Operation::kStep;
    at -= kWeights[i];
  }
  return Operation::kStep;
}

void Simulation::act(Operation operation) {
  switch (operation) {
    case Operation::kStep:
      return step();
    case Operation::kBatch:
      return batch();
    case Operation::kReplay:
      return replay();
    case Operation::kAbandon:
      return abandon();
    case Operation::kFork:
      return fork();
    case Operation::kTruncate:
      return truncate();
    case Operation::kFree:
      return free();
    case Operation::kPrefetch:
      return prefetch();
    case Operation::kFlush:
      return flush();
    case Operation::kRefill:
      return refill();
    case Operation::kIdle:
      return idle();
    case Operation::kPublish:
      return publish();
    case Operation::kAdopt:
      return adopt();
    case Operation::kRestart:
      return restart();
  }
}

bool Simulation::begin_track() {
  const Result<Sequence*> ours = engine_->cache().create_sequence();
  const Result<Sequence*> theirs = twin_->cache().create_sequence();
  if (!ours.ok() || !theirs.ok()) {
    fail("a sequence cannot be made");
    return false;
  }
  tracks_.push_back({*ours, *theirs, {}, true, random_.between(1, 2)});
  return true;
}

Simulation::Track* Simulation::find_track(const Sequence* sequence) {
  for (Track& t : tracks_) {
    if (t.engine == sequence) return &t;
  }
  return nullptr;
}

// ---- steps ----

Simulation::Entry Simulation::new_tokens(size_t index, uint64_t count) {
  Entry entry{index, track(index).tokens.size(), {}, std::vector<uint8_t>(count, 0)};
  for (uint64_t i = 0; i < count; ++i) entry.tokens.push_back(next_token_++);
  entry.wanted[count - 1] = 1;
  entry.wanted[random_.below(count)] = 1;
  return entry;
}

void Simulation::step() {
  const size_t index = random_.below(tracks_.size());
  const uint64_t count =
      random_.chance(600) ? random_.between(24, config_.max_step_tokens) : random_.between(1, 4);
  if (track(index).tokens.size() + count > kMostTokens) return free();
  run_both({new_tokens(index, count)}, random_.chance(200) ? random_.between(1, 200) : 0);
}

void Simulation::batch() {
  std::vector<Entry> entries;
  for (size_t i = 0; i < tracks_.size(); ++i) entries.push_back(new_tokens(i, random_.between(1, 12)));
  run_both(std::move(entries), 0);
}

void Simulation::replay() {
  const size_t index = random_.below(tracks_.size());
  const Track& t = track(index);
  if (t.tokens.empty()) return;
  const uint64_t page = config_.page_tokens;
  const uint64_t first = random_.below(t.tokens.size()) / page * page;
  const uint64_t most = std::min<uint64_t>(config_.max_step_tokens, t.tokens.size() - first);
  const uint64_t count = random_.between(1, most);
  Entry entry{index, first, {}, std::vector<uint8_t>(count, 0)};
  entry.tokens.assign(t.tokens.begin() + static_cast<std::ptrdiff_t>(first),
                      t.tokens.begin() + static_cast<std::ptrdiff_t>(first + count));
  // The first pages of a replay lack their own recent ones.
  const uint64_t lacking = first == 0 ? 0 : config_.recent_pages * page;
  if (lacking < count) entry.wanted[random_.between(lacking, count - 1)] = 1;
  run_both({std::move(entry)}, 0);
}

// A step that appends to the first layer alone and ends: its tokens are forgotten.
void Simulation::abandon() {
  const size_t index = random_.below(tracks_.size());
  const Entry entry = new_tokens(index, random_.between(1, config_.max_step_tokens));
  const uint64_t length = track(index).tokens.size();
  for (Engine* engine : {engine_.get(), twin_.get()}) {
    const bool twin = engine == twin_.get();
    const StepRequest request{twin ? track(index).twin : track(index).engine, entry.first,
                              entry.tokens.size()};
    Result<std::unique_ptr<OpenStep>> open = engine->cache().begin({&request, 1});
    if (!open.ok()) return fail("an abandoned step does not begin: " + open.status().message());
    const std::vector<float> keys =
        token_rows(Side::kKey, 0, entry.tokens, config_.kv_heads, config_.head_dim);
    const std::vector<float> values =
        token_rows(Side::kValue, 0, entry.tokens, config_.kv_heads, config_.head_dim);
    const uint64_t stride = uint64_t{config_.kv_heads} * config_.head_dim;
    const TensorView k{keys.data(), DType::kF32, stride, config_.head_dim};
    const TensorView v{values.data(), DType::kF32, stride, config_.head_dim};
    Status status = engine->cache().append(open->get(), 0, k, v);
    if (status.ok()) status = engine->cache().wait(open->get());
    const Status end = engine->cache().end(open->get());
    if (!status.ok()) {
      judge_error(status, "an abandoned append");
      forgot(entry);
    }
    const bool single = config_.layers == 1 && status.ok();
    if (single && !end.ok()) return fail("a whole step does not end: " + end.message());
    if (!single && !end.ok() && end.code() != StatusCode::kInvalid)
      return fail("a step does not end: " + end.message());
    if (single) {
      if (!twin) continue;
      for (const uint32_t token : entry.tokens) track(index).tokens.push_back(token);
    } else if (engine->cache().length(request.sequence) != length) {
      return fail("an abandoned step changed the length");
    } else if (!status.ok()) {
      return;
    }
  }
}

// For the next step, of both engines.
void Simulation::choose_selection() {
  selection_ = {};
  // Some steps attend everything, and on a healed disk all of them: no page stays lost that nobody chose.
  if (!config_.digests || disk_world_.healed || choices_.chance(200)) return;
  const bool by_mass = choices_.chance(300);
  selection_.kind = by_mass ? SelectionKind::kMass : SelectionKind::kTopPages;
  selection_.mass = static_cast<float>(choices_.between(1, 9)) / 10;
  selection_.pages = static_cast<uint32_t>(choices_.between(1, 4));
  selection_.window = choices_.chance(500) ? 0 : choices_.below(3 * uint64_t{config_.page_tokens});
  selection_.check = choices_.chance(100);
}

bool Simulation::run_both(std::vector<Entry> entries, uint64_t window) {
  open_ = entries;
  choose_selection();
  const StepOutput ours = run_step(*engine_, false, entries, window, config_.layers);
  open_.clear();
  note_partial();
  if (failed()) return false;
  bool kept = ours.status.ok();
  if (!ours.status.ok()) {
    judge_error(ours.status, "a step");
    // What has been appended in every layer stays, whatever became of its attention.
    const Entry& any = entries.front();
    kept = engine_->cache().length(track(any.track).engine) == any.first + any.tokens.size();
    if (!kept) {
      for (const Entry& entry : entries) forgot(entry);
      return false;
    }
  }
  const StepOutput theirs = run_step(*twin_, true, entries, window, config_.layers);
  if (!theirs.status.ok()) {
    fail("the twin's step fails: " + theirs.status.message());
    return false;
  }
  for (const Entry& entry : entries) {
    std::vector<uint32_t>& tokens = track(entry.track).tokens;
    if (entry.first == tokens.size()) tokens.insert(tokens.end(), entry.tokens.begin(), entry.tokens.end());
  }
  if (ours.status.ok()) compare(entries, window, ours, theirs);
  return true;
}

void Simulation::note_partial() {
  const uint64_t partial = engine_->mover()->counts().partial_pages.load();
  result_.partial_pages += partial - partial_seen_;
  partial_seen_ = partial;
}

// What the engine alone took back: a lossy tail page may have been decoded.
void Simulation::forgot(const Entry& entry) {
  const bool is_new = entry.first == track(entry.track).tokens.size();
  if (is_new && !lossless_ && entry.first % config_.page_tokens != 0) track(entry.track).same_bits = false;
}

Simulation::StepOutput Simulation::run_step(Engine& engine, bool twin, const std::vector<Entry>& entries,
                                            uint64_t window, uint32_t layers) {
  StepOutput output;
  output.out.resize(layers);
  output.lse.resize(layers);
  std::vector<StepRequest> requests;
  for (const Entry& e : entries) {
    requests.push_back({twin ? track(e.track).twin : track(e.track).engine, e.first, e.tokens.size()});
  }
  Result<std::unique_ptr<OpenStep>> open = engine.cache().begin(requests);
  if (!open.ok()) {
    fail("a step does not begin: " + open.status().message());
    return output;
  }
  for (uint32_t layer = 0; layer < layers && output.status.ok() && !failed(); ++layer) {
    output.status = run_layer(engine, twin, open->get(), layer, entries, window, &output);
  }
  const Status end = engine.cache().end(open->get());
  // After a failure end names it again, or says which layer lacks its tokens.
  if (!end.ok() && output.status.ok()) output.status = end;
  if (!end.ok() && end.code() == StatusCode::kMiss)
    fail("a step that failed cannot be undone: " + end.message());
  return output;
}

// What the queries of this layer, or those of another, choose begins to be read.
Status Simulation::guess(Cache& cache, OpenStep* open, uint32_t layer, const std::vector<uint32_t>& tokens) {
  if (selection_.kind == SelectionKind::kNone || !guesses_.chance(400)) return {};
  const uint32_t guessed = guesses_.chance(500) ? layer : layer + 1;
  const std::vector<float> queries =
      token_rows(Side::kQuery, guessed, tokens, config_.query_heads, config_.head_dim);
  const uint64_t stride = uint64_t{config_.query_heads} * config_.head_dim;
  const AttendArgs args{1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
                        {queries.data(), DType::kF32, stride, config_.head_dim},
                        {},
                        0,
                        nullptr,
                        nullptr,
                        selection_};
  const Status status = cache.choose_ahead(open, layer, args);
  return status.ok() ? cache.wait(open) : status;
}

Status Simulation::run_layer(Engine& engine, bool twin, OpenStep* open, uint32_t layer,
                             const std::vector<Entry>& entries, uint64_t window, StepOutput* output) {
  std::vector<uint32_t> tokens;
  std::vector<uint8_t> wanted;
  for (const Entry& e : entries) {
    tokens.insert(tokens.end(), e.tokens.begin(), e.tokens.end());
    wanted.insert(wanted.end(), e.wanted.begin(), e.wanted.end());
  }
  const auto rows = [&](Side side, uint32_t heads) {
    return token_rows(side, layer, tokens, heads, config_.head_dim);
  };
  const std::vector<float> keys = rows(Side::kKey, config_.kv_heads);
  const std::vector<float> values = rows(Side::kValue, config_.kv_heads);
  const std::vector<float> queries = rows(Side::kQuery, config_.query_heads);
  const auto view = [&](const std::vector<float>& data, uint32_t heads) {
    return TensorView{data.data(), DType::kF32, uint64_t{heads} * config_.head_dim, config_.head_dim};
  };
  Cache& cache = engine.cache();
  Status status;
  if (!twin) status = guess(cache, open, layer, tokens);
  if (!status.ok()) return status;
  status = cache.append(open, layer, view(keys, config_.kv_heads), view(values, config_.kv_heads));
  if (status.ok()) status = cache.wait(open);
  if (!status.ok()) return status;
  output->out[layer].assign(queries.size(), NAN);
  output->lse[layer].assign(tokens.size() * config_.query_heads, 0.0F);
  const TensorView q = view(queries, config_.query_heads);
  const AttendArgs args{1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
                        q,
                        {output->out[layer].data(), DType::kF32, q.token_stride, q.head_stride},
                        window,
                        output->lse[layer].data(),
                        wanted.data(),
                        selection_};
  const bool healed = disk_world_.healed;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    disk_world_.healed = healed || attempt >= kPatientAttempts;
    status = cache.attend(open, layer, args);
    if (status.ok()) status = cache.wait(open);
    if (status.code() != StatusCode::kMiss || twin || failed()) break;
    const Miss miss = cache.miss(open);
    judge_miss(miss);
    status = refill_missing(miss);
    if (!status.ok()) break;
  }
  disk_world_.healed = healed;
  if (status.code() == StatusCode::kMiss) fail("an attend misses for ever: " + status.message());
  return status;
}

// What was wanted, by what the sequence is known to hold.
Status Simulation::refill_missing(const Miss& miss) {
  const Track* t = find_track(miss.sequence);
  const uint64_t page = config_.page_tokens;
  if (t == nullptr || miss.layer >= config_.layers || miss.first % page != 0 || miss.count % page != 0 ||
      miss.count == 0) {
    fail("a miss names tokens that there are none of");
    return {};
  }
  // The open step's own tokens may be among them: pages that it has sealed can have left memory.
  std::vector<uint32_t> held = t->tokens;
  for (const Entry& entry : open_) {
    const bool is_new = &track(entry.track) == t && entry.first == t->tokens.size();
    if (is_new) held.insert(held.end(), entry.tokens.begin(), entry.tokens.end());
  }
  if (miss.first + miss.count > held.size()) {
    fail("a miss names tokens beyond the sequence");
    return {};
  }
  const std::span<const uint32_t> tokens(held.data() + miss.first, miss.count);
  const std::vector<float> keys =
      token_rows(Side::kKey, miss.layer, tokens, config_.kv_heads, config_.head_dim);
  const std::vector<float> values =
      token_rows(Side::kValue, miss.layer, tokens, config_.kv_heads, config_.head_dim);
  const uint64_t stride = uint64_t{config_.kv_heads} * config_.head_dim;
  ++result_.refills;
  return engine_->cache().refill(miss.sequence, miss.layer, miss.first, miss.count,
                                 {keys.data(), DType::kF32, stride, config_.head_dim},
                                 {values.data(), DType::kF32, stride, config_.head_dim});
}

// ---- comparing ----

void Simulation::compare(const std::vector<Entry>& entries, uint64_t window, const StepOutput& ours,
                         const StepOutput& theirs) {
  const size_t width = size_t{config_.query_heads} * config_.head_dim;
  const auto model_layer = static_cast<uint32_t>(random_.below(config_.layers));
  size_t row = 0;
  for (const Entry& entry : entries) {
    for (size_t i = 0; i < entry.tokens.size(); ++i, ++row) {
      if (entry.wanted[i] == 0) continue;
      for (uint32_t layer = 0; layer < config_.layers && track(entry.track).same_bits; ++layer) {
        const float* a = ours.out[layer].data() + row * width;
        const float* b = theirs.out[layer].data() + row * width;
        const bool same = std::equal(a, a + width, b) &&
                          std::equal(ours.lse[layer].data() + row * config_.query_heads,
                                     ours.lse[layer].data() + (row + 1) * config_.query_heads,
                                     theirs.lse[layer].data() + row * config_.query_heads);
        ++result_.comparisons;
        if (!same) {
          return fail("position " + std::to_string(entry.first + i) + " of sequence " +
                      std::to_string(entry.track) + ", layer " + std::to_string(layer) +
                      ": other bits than a clean run");
        }
      }
      if (selection_.kind != SelectionKind::kNone) continue;  // the model attends everything
      compare_with_model(entry, i, model_layer, window, ours.out[model_layer].data() + row * width);
    }
  }
}

void Simulation::compare_with_model(const Entry& entry, size_t row, uint32_t layer, uint64_t window,
                                    const float* out) {
  const std::span<const uint32_t> all(track(entry.track).tokens);
  const std::vector<double> model = model_attention(config_, layer, all.first(entry.first + row + 1), window);
  const double error = relative_error({out, model.size()}, model);
  if (error <= tolerance_) return;
  fail("position " + std::to_string(entry.first + row) + " of sequence " + std::to_string(entry.track) +
       ", layer " + std::to_string(layer) + ": off the model by " + std::to_string(error));
}

// ---- sequences ----

void Simulation::fork() {
  if (tracks_.size() >= kMostTracks) return free();
  const size_t index = random_.below(tracks_.size());
  const Result<Sequence*> ours = engine_->cache().fork(track(index).engine);
  if (!ours.ok()) return judge_error(ours.status(), "a fork");
  const Result<Sequence*> theirs = twin_->cache().fork(track(index).twin);
  if (!theirs.ok()) return fail("the twin's fork fails: " + theirs.status().message());
  const Track& from = track(index);
  tracks_.push_back({*ours, *theirs, from.tokens, from.same_bits, from.tenant});
}

void Simulation::truncate() {
  const size_t index = random_.below(tracks_.size());
  Track& t = track(index);
  uint64_t length = random_.between(t.tokens.size() / 2, t.tokens.size());
  if (!lossless_ && random_.chance(700)) length = length / config_.page_tokens * config_.page_tokens;
  Status status = engine_->cache().truncate(t.engine, length);
  const bool healed = disk_world_.healed;
  for (int attempt = 0; status.code() == StatusCode::kMiss && attempt < kMostAttempts && !failed();
       ++attempt) {
    disk_world_.healed = healed || attempt >= kPatientAttempts;
    judge_miss({t.engine, 0, length, 0});
    // The pages that are opened again are lost in some layer: the tail's and the recent ones before it.
    const uint32_t first = first_recent_page(config_, length);
    const uint64_t last =
        std::min<uint64_t>(length / config_.page_tokens + 1, t.tokens.size() / config_.page_tokens);
    for (uint32_t layer = 0; layer < config_.layers; ++layer) {
      const uint64_t page = config_.page_tokens;
      if (first >= last) break;
      status = refill_missing({t.engine, layer, first * page, (last - first) * page});
      if (!status.ok()) {
        disk_world_.healed = healed;
        return judge_error(status, "a refill");
      }
    }
    status = engine_->cache().truncate(t.engine, length);
  }
  disk_world_.healed = healed;
  if (!status.ok()) return judge_error(status, "a truncation");
  if (Status theirs = twin_->cache().truncate(t.twin, length); !theirs.ok())
    return fail("the twin's truncation fails: " + theirs.message());
  t.tokens.resize(length);
  // A lossy page that is opened again is encoded a second time when it is full, and in a replay from the
  // first values: the bits then depend on which pages were lost.
  if (!lossless_ && length % config_.page_tokens != 0) t.same_bits = false;
}

void Simulation::free() {
  const size_t index = random_.below(tracks_.size());
  if (Status status = engine_->cache().free(track(index).engine); !status.ok())
    return fail("a sequence cannot be freed: " + status.message());
  if (Status status = twin_->cache().free(track(index).twin); !status.ok())
    return fail("the twin's sequence cannot be freed: " + status.message());
  tracks_.erase(tracks_.begin() + static_cast<std::ptrdiff_t>(index));
  if (tracks_.empty()) begin_track();
}

// ---- pages ----

void Simulation::prefetch() {
  const Track& t = track(random_.below(tracks_.size()));
  const uint64_t first = random_.below(t.tokens.size() + 1);
  const auto layer = static_cast<uint32_t>(random_.below(config_.layers));
  const Status status = engine_->cache().prefetch(t.engine, layer, first, random_.between(1, 600));
  if (!status.ok()) fail("a prefetch fails: " + status.message());
}

void Simulation::flush() {
  const Status status = engine_->cache().flush();
  if (!status.ok()) judge_error(status, "a flush");
}

void Simulation::refill() {
  const Track& t = track(random_.below(tracks_.size()));
  const uint64_t pages = t.tokens.size() / config_.page_tokens;
  if (pages == 0) return;
  const uint64_t first = random_.below(pages);
  const auto layer = static_cast<uint32_t>(random_.below(config_.layers));
  const uint64_t count = random_.between(1, std::min<uint64_t>(4, pages - first));
  const Status status =
      refill_missing({t.engine, layer, first * config_.page_tokens, count * config_.page_tokens});
  if (!status.ok()) judge_error(status, "a refill");
}

void Simulation::idle() {
  clock_.advance(std::chrono::microseconds(random_.below(20000)));
  if (write_budget_ != 0 && random_.chance(300)) clock_.advance(std::chrono::minutes(random_.below(60)));
  turn(static_cast<uint32_t>(random_.below(8)));
  if (random_.chance(300)) disk_->release_hung();
  if (store_disk_ != nullptr && random_.chance(600)) store_disk_->release_hung();
}

}  // namespace quire::testing
