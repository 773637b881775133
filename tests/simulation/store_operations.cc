// What a simulation does with its store: publishing, adopting, the ends of processes and machines, and what
// must be true of it.
#include <algorithm>
#include <cstdio>

#include "tests/simulation/simulation.h"

namespace quire::testing {
namespace {

constexpr size_t kMostTracks = 4;
constexpr uint64_t kWeakIds = 16;    // names of blocks in all, where they are weak
constexpr int kPatientOpenings = 4;  // after which the store's disk behaves

size_t common_tokens(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

PrefixChain Simulation::chain_of(uint64_t tenant, std::span<const uint32_t> tokens) const {
  const PrefixScope scope{engine_->model_fingerprint(), {tenant, 0}, 0, 0, layout_hash(engine_->config())};
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  PrefixChain chain = make_chain(scope, config_.page_tokens, ids);
  if (!weak_ids_) return chain;
  // Hashes only find. Where they are weak, what was asked for and what was found differ all the time: in
  // tokens, and in the tenant.
  PrefixScope anyone = scope;
  anyone.tenant = {};
  chain.ids = make_chain(anyone, config_.page_tokens, ids).ids;
  for (BlockId& id : chain.ids) id = {id.low % kWeakIds, 0};
  return chain;
}

// Whether nothing but ends of processes and machines has happened to the store's disk.
bool Simulation::store_is_clean() const {
  uint64_t faults = 0;
  for (size_t fault = 0; fault < kDiskFaults; ++fault) {
    for (const uint64_t n : store_world_.counts.hits[fault]) faults += n;
  }
  return faults == 0;
}

// ---- publishing ----

// Whether there is something to publish that has the twin's bits.
bool Simulation::publishable(const Track& t) const {
  return t.same_bits && t.tokens.size() >= config_.page_tokens;
}

void Simulation::publish() {
  size_t index = random_.below(tracks_.size());
  for (int draws = 0; draws < 4 && !publishable(track(index)); ++draws) index = random_.below(tracks_.size());
  publish_track(index);
}

void Simulation::publish_track(size_t index) {
  const Track& t = track(index);
  // What was encoded in one engine alone has other bits than the twin's.
  if (!publishable(t)) return;
  const uint64_t most = t.tokens.size() / config_.page_tokens;
  const uint64_t blocks = random_.chance(700) ? most : random_.between(1, most);
  const std::span<const uint32_t> tokens = std::span(t.tokens).first(blocks * config_.page_tokens);
  known_.push_back({t.tenant, {tokens.begin(), tokens.end()}, 0});
  const PrefixChain chain = chain_of(t.tenant, tokens);
  const Result<uint64_t> stored = engine_->prefixes().publish(t.engine, chain);
  note_evictions();
  if (!stored.ok()) return judge_store_error(stored.status(), "publishing");
  result_.published_blocks += *stored;
  if (!weak_ids_) known_.back().durable = engine_->prefixes().store()->match(chain.ids);
}

// What made room for others need not be there any more.
void Simulation::note_evictions() {
  const BlockStore& store = *engine_->prefixes().store();
  const uint64_t evicted = store.stats().evicted_blocks;
  if (evicted == evictions_seen_) return;
  evictions_seen_ = evicted;
  for (Known& k : known_) {
    if (k.durable > 0) k.durable = std::min(k.durable, store.match(chain_of(k.tenant, k.tokens).ids));
  }
}

// ---- adopting ----

// Tokens of some sequence, past or present, that may go on differently; for its tenant, or the other one.
Simulation::Known Simulation::wanted_prefix() {
  Known wanted{track(0).tenant, track(0).tokens, 0};
  if (!known_.empty() && random_.chance(800)) {
    // Rather one that the store had, and may have still.
    wanted = known_[random_.below(known_.size())];
    for (int draws = 0; draws < 4 && wanted.durable == 0; ++draws)
      wanted = known_[random_.below(known_.size())];
  } else {
    const Track& t = track(random_.below(tracks_.size()));
    wanted = {t.tenant, t.tokens, 0};
  }
  if (random_.chance(150)) wanted.tenant = 3 - wanted.tenant;
  if (random_.chance(200)) {
    // Blocks that are known, behind a first one that is not theirs.
    for (uint64_t i = 0; i < config_.page_tokens && i < wanted.tokens.size(); ++i)
      wanted.tokens[i] = next_token_++;
  }
  const uint64_t more = random_.below(3) * config_.page_tokens;
  for (uint64_t i = 0; i < more; ++i) wanted.tokens.push_back(next_token_++);
  return wanted;
}

void Simulation::adopt() {
  if (tracks_.size() >= kMostTracks) free();
  const Known wanted = wanted_prefix();
  if (failed() || !begin_track()) return;
  const size_t index = tracks_.size() - 1;
  track(index).tenant = wanted.tenant;
  if (!adopt_into(&track(index), wanted) || !rebuild_twin(index)) return;
  run_both({new_tokens(index, random_.between(1, 40))}, 0);
}

// False when the track has no tokens after it.
bool Simulation::adopt_into(Track* t, const Known& wanted) {
  PrefixChain chain = chain_of(wanted.tenant, wanted.tokens);
  const uint64_t damaged = engine_->prefixes().store()->stats().damaged_blocks;
  const uint64_t loaded = engine_->prefixes().counts().loaded_tokens;
  const Result<uint64_t> tokens = engine_->prefixes().adopt(t->engine, &chain);
  t->tokens.clear();
  if (!tokens.ok()) {
    judge_store_error(tokens.status(), "adopting");
    if (engine_->cache().length(t->engine) != 0) fail("an adoption that failed has left tokens");
    return false;
  }
  if (verbose_) {
    std::printf("    adopted %llu of %zu tokens for tenant %llu\n", static_cast<unsigned long long>(*tokens),
                wanted.tokens.size(), static_cast<unsigned long long>(wanted.tenant));
  }
  result_.adopted_blocks += (engine_->prefixes().counts().loaded_tokens - loaded) / config_.page_tokens;
  if (engine_->cache().length(t->engine) != *tokens || *tokens > wanted.tokens.size()) {
    fail("an adopted sequence has another length than was said");
    return false;
  }
  judge_adopted(wanted, *tokens, engine_->prefixes().store()->stats().damaged_blocks > damaged);
  t->tokens.assign(wanted.tokens.begin(), wanted.tokens.begin() + static_cast<std::ptrdiff_t>(*tokens));
  return !t->tokens.empty() && !failed();
}

// Nothing is given that its tenant has not made known, and a clean disk damages nothing that was synced.
void Simulation::judge_adopted(const Known& wanted, uint64_t tokens, bool damage) {
  uint64_t known = 0;
  uint64_t durable = 0;
  for (const Known& k : known_) {
    if (k.tenant != wanted.tenant) continue;
    const size_t common = common_tokens(k.tokens, wanted.tokens) / config_.page_tokens;
    known = std::max<uint64_t>(known, common);
    durable = std::max<uint64_t>(durable, std::min(common, k.durable));
  }
  if (tokens > known * config_.page_tokens) {
    return fail("a tenant was given " + std::to_string(tokens) + " tokens and had made known " +
                std::to_string(known * config_.page_tokens) + " of these");
  }
  if (!damage || !store_is_clean()) return;
  if (!power_lost_ || tokens < durable * config_.page_tokens) fail("a clean disk has damaged a block");
}

// The twin computes what the engine has adopted.
bool Simulation::rebuild_twin(size_t index) {
  const std::vector<uint32_t> tokens = track(index).tokens;
  for (size_t at = 0; at < tokens.size(); at += config_.max_step_tokens) {
    const size_t count = std::min<size_t>(config_.max_step_tokens, tokens.size() - at);
    Entry entry{index, at, {}, std::vector<uint8_t>(count, 0)};
    entry.tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                        tokens.begin() + static_cast<std::ptrdiff_t>(at + count));
    entry.wanted.back() = 1;
    const StepOutput output = run_step(*twin_, true, {entry}, 0, config_.layers);
    if (!output.status.ok()) fail("the twin's step fails: " + output.status.message());
    if (failed()) return false;
  }
  return true;
}

// ---- the end of a process ----

void Simulation::restart() {
  ++result_.restarts;
  const bool killed = random_.chance(700);
  const bool power_lost = killed && random_.chance(500);
  if (failed()) return;
  keep_one_track();
  if (killed) {
    // In the midst of publishing, most of the time.
    store_world_.dies_after = random_.below(16);
    publish_track(0);
    store_world_.dies_after = 0;
    store_world_.counts.add(power_lost ? SimFault::kPowerLost : SimFault::kKilled, Operation::kRestart);
  }
  if (failed()) return;
  if (!killed) {
    if (Status status = engine_->close(); !status.ok()) return fail("close fails: " + status.message());
  }
  engine_.reset();
  disk_ = nullptr;
  store_disk_ = nullptr;
  if (power_lost) {
    stored_.lose_power(random_);
    power_lost_ = true;
  }
  if (!reopen_engine(killed)) return;
  judge_recovery();
  Track& t = tracks_.front();
  const Result<Sequence*> sequence = engine_->cache().create_sequence();
  if (!sequence.ok()) return fail("a sequence cannot be made");
  t.engine = *sequence;
  if (!failed()) adopt_into(&t, {t.tenant, std::vector<uint32_t>(t.tokens), 0});
  if (Status theirs = twin_->cache().truncate(t.twin, t.tokens.size()); !theirs.ok())
    return fail("the twin's truncation fails: " + theirs.message());
  if (t.tokens.empty()) t.same_bits = true;
}

// The others are lost in the twin as well; in the engine they go with the process.
void Simulation::keep_one_track() {
  const size_t kept = random_.below(tracks_.size());
  for (size_t i = 0; i < tracks_.size(); ++i) {
    if (i != kept && !twin_->cache().free(tracks_[i].twin).ok()) fail("the twin's sequence cannot be freed");
  }
  tracks_ = {tracks_[kept]};
}

// The process that opens the store may be killed as well.
bool Simulation::reopen_engine(bool killed) {
  const bool healed = store_world_.healed;
  Status status;
  for (int attempt = 0; attempt <= kPatientOpenings && !failed(); ++attempt) {
    const bool dies = killed && attempt == 0 && random_.chance(200);
    store_world_.dies_after = dies ? random_.below(8) : UINT64_MAX;
    store_world_.healed = healed || attempt == kPatientOpenings;
    status = open_engine();
    if (status.ok() && !dies) break;
    engine_.reset();
    if (status.ok()) continue;  // it has lived a little longer than its opening
    if (verbose_) std::printf("    not opened: %s\n", status.message().c_str());
    const bool is_refused = status.code() == StatusCode::kInvalid;
    if (store_is_clean() && (is_refused || !dies)) fail("a clean store does not open: " + status.message());
    if (!is_refused && status.code() != StatusCode::kIo && status.code() != StatusCode::kDeadline)
      fail("a store does not open, which no fault explains: " + status.message());
    // No copy of the superblock is whole: it is deleted.
    if (is_refused) stored_ = DiskImage(0);
    if (is_refused) stored_.remember();
  }
  store_world_.dies_after = UINT64_MAX;
  store_world_.healed = healed;
  if (!status.ok()) fail("a store does not open on a healed disk: " + status.message());
  return !failed();
}

// On a disk without faults everything that was synced is there.
void Simulation::judge_recovery() {
  if (!store_is_clean()) return;
  const BlockStore& store = *engine_->prefixes().store();
  if (!power_lost_ && store.stats().refused_blocks > 0) fail("a clean store has headers that are refused");
  for (const Known& k : known_) {
    const size_t there = k.durable == 0 ? 0 : store.match(chain_of(k.tenant, k.tokens).ids);
    if (there < k.durable) {
      return fail("of " + std::to_string(k.durable) + " synced blocks " + std::to_string(there) +
                  " are there after a restart");
    }
  }
}

void Simulation::judge_store_error(const Status& status, const char* what) {
  if (verbose_) std::printf("    %s: %s\n", what, status.message().c_str());
  ++result_.errors;
  const bool known = status.code() == StatusCode::kIo || status.code() == StatusCode::kDeadline ||
                     status.code() == StatusCode::kOverBudget;
  if (!known) return fail(std::string(what) + " reports what no fault explains: " + status.message());
  const bool dying = store_world_.dies_after != UINT64_MAX;
  const bool faulty = !store_is_clean() || disk_world_.counts.sum() > 0 || tracks_.size() > 1;
  if (!dying && !faulty) fail(std::string(what) + " fails on clean disks: " + status.message());
  if (store_world_.healed) fail(std::string(what) + " fails on a healed disk: " + status.message());
}

// Blocks of the one sequence that a healed store has, once they have been published. Pages that a fault has
// cost earlier, and that nobody has missed so far, end a publication; a step misses them, and they are made
// again.
size_t Simulation::publish_patiently(uint64_t blocks) {
  constexpr int kAttempts = 4;
  const PrefixChain chain =
      chain_of(track(0).tenant, std::span(track(0).tokens).first(blocks * config_.page_tokens));
  size_t there = 0;
  for (int attempt = 0; attempt < kAttempts && there < blocks && !failed(); ++attempt) {
    if (attempt > 0) run_both({new_tokens(0, 1)}, 0);
    if (write_budget_ != 0) clock_.advance(std::chrono::hours(24));
    const Result<uint64_t> stored = engine_->prefixes().publish(track(0).engine, chain);
    if (!stored.ok()) {
      judge_store_error(stored.status(), "publishing");
      return there;
    }
    there = weak_ids_ ? blocks : engine_->prefixes().store()->match(chain.ids);
  }
  return there;
}

// On healed disks a store takes what it has room for, of a sequence that has the memory to itself. An extent
// is free again when its last page goes, so that a spill file may be full of holes, and then there is no room
// to make lost pages again until the sequence is gone: the next one must find it.
void Simulation::check_store() {
  constexpr uint64_t kBlocks = 6;  // that every store has room for
  store_disk_->release_hung();
  clock_.advance(std::chrono::seconds(1));
  while (tracks_.size() > 1) free();
  const uint64_t blocks = std::min<uint64_t>(kBlocks, track(0).tokens.size() / config_.page_tokens);
  const uint64_t errors = result_.errors;
  size_t there = publish_patiently(blocks);
  if (there < blocks && result_.errors > errors && !failed()) {
    free();
    for (uint64_t i = 0; i < blocks && !failed(); ++i) {
      if (!run_both({new_tokens(0, config_.page_tokens)}, 0)) fail("a new sequence finds no room");
    }
    if (!failed()) there = publish_patiently(blocks);
  }
  if (there < blocks && !failed()) {
    fail("a healed store has " + std::to_string(there) + " of " + std::to_string(blocks) +
         " blocks that were published");
  }
}

}  // namespace quire::testing
