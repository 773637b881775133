// Attention of a step over everything visible: folded pages wherever they lie, then the unfolded ones.
//
// Work runs in waves. A wave is a handful of runs of pages that are held (pinned in memory, or loaded into
// staging memory while the wave before was computed); a lane of the executor takes (tile, wave) or (tile,
// run) units. Each (tile, run) gives one partial, and partials merge in position order, so that results have
// the same bits for any number of threads, any chunking and any place of the pages. When the last run of a
// layer is held, loading goes on with the next layer's, unless pages are selected: then each layer's choice
// comes first (attend_select.cc), or a guess of it (attend_ahead.cc). What bounds it: for decode reading the
// folded bytes, for prefill the integer dots (quant/cpu). Thread safety: called on the compute stream.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "kvcache/attend_plan.h"
#include "kvcache/page_device.h"
#include "kvcache/page_reader.h"
#include "kvcache/placement.h"

namespace quire {

// The room that choosing pages works in, for one call.
struct SelectionSpace {
  uint16_t* chosen = nullptr;  // [tiles][run_words]: bit i of word w: page w * kRunPages + i is attended
  float* left_out = nullptr;   // [rows]: see choose_pages; of a tile's first group() rows
  float* folded = nullptr;     // [rows]: log2 of the mass on folded pages that were attended
  float* rest_m = nullptr;     // [rows]: the pages left out, attended apart to check: m and l of their state
  float* rest_l = nullptr;     // [rows]
  uint32_t* mass = nullptr;  // [entries][pages]: estimated, summed over queries and heads; in 1 / kMassUnits
  uint8_t* lanes = nullptr;  // [threads][lane_bytes]
  size_t lane_bytes = 0;
  size_t run_words = 0;
  uint32_t pages = 0;  // that a lane has room for
};

inline constexpr size_t kAheadRuns = 64;  // runs held in advance, of this layer and the next
inline constexpr size_t kWaveRuns = 32;   // runs computed between two barriers
inline constexpr uint32_t kWavePages = kWaveRuns * kRunPages;
// A device is given at most so many pages before anybody waits for it.
inline constexpr uint32_t kSpacePages = 8 * kWavePages;

// A tile of each kv head, plan tiles first + head * stride, and where its state of all waves stands on the
// device: row + head * head_rows.
struct DeviceTile {
  size_t first;
  size_t stride;
  uint32_t row;
  uint32_t head_rows;
  bool left_out;  // of the pages that were not chosen
};

// Waves that a device has been given and nobody has waited for. Their pages stay held.
struct DeviceBatch {
  uint32_t waves = 0;
  uint32_t refs = 0;  // of the device's space that they have taken
  uint32_t input_rows = 0;
  uint32_t rows = 0;         // states stand below
  double work = 0;           // as placement.h has it
  double carry_seconds = 0;  // that carried pages should have taken
  double host_seconds = 0;   // that the CPU took for its share
  Nanoseconds start{};
  std::vector<DeviceTile> shared_tiles;  // of launches for all tiles of an entry
  std::vector<DeviceTile> own_tiles;     // of those for one
  std::vector<bool> has_state;           // by state_row of launches: whether a wave has left one there

  // False when there is one.
  bool leave_state(uint32_t state_row) {
    const bool first = !has_state[state_row];
    has_state[state_row] = true;
    return first;
  }
  void empty() {
    refs = input_rows = rows = 0;
    shared_tiles.clear();
    own_tiles.clear();
    has_state.assign(has_state.size(), false);
  }
  // state_rows: that the waves of the call may have.
  void restart(uint32_t state_rows, Nanoseconds now) {
    has_state.resize(state_rows);
    empty();
    waves = 0;
    work = carry_seconds = host_seconds = 0;
    start = now;
  }
};

struct EntryTiles;

class Attender {
 public:
  // Reserves the work space for steps of config.max_step_tokens.
  static Result<std::unique_ptr<Attender>> create(const CacheContext& context);
  ~Attender();
  Attender(const Attender&) = delete;
  Attender& operator=(const Attender&) = delete;

  // kMiss names the lost pages in step->miss.
  Status run(Step* step, uint32_t layer, const AttendArgs& args);
  // Gives back what was loaded ahead; before pages are loaded for anything else, and before a rope changes.
  void release_ahead();
  // Starts loading a layer's pages [first_page, first_page + count), as far as staging memory goes. They are
  // held until they are attended, a step of other sequences begins, or their memory is needed.
  void prefetch(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count);
  // Chooses pages of a layer as run() would, and starts loading the chosen sections, as far as staging memory
  // goes; they are held until the layer is attended. A wrong guess costs reads, never a result.
  Status choose_ahead(Step* step, uint32_t layer, const AttendArgs& args);

 private:
  struct Lane;
  struct Call;
  explicit Attender(const CacheContext& context);

  Status allocate();
  Status hold_wave(Call& call);
  void read_ahead(Call& call);
  bool hold_run(Call& call, size_t index);
  void hold_next_layer(Call& call);
  template <typename Predicate>
  void release_ahead_if(Predicate&& predicate);
  void release_strangers(const Step& step);
  std::deque<HeldRun>::iterator find_ahead(const PageTable* table, uint32_t first_page);
  bool claim_ahead(const PageTable* table, const PageRun& wanted);
  HeldRun take_ahead(const PageTable* table, uint32_t first_page);
  void release_layer(const Step& step, uint32_t layer);
  bool any_on_disk();
  void keep_sealed(const Call& call);
  bool preload_chosen(const Call& call, const PageRun& chosen);
  void count_foreseen(const HeldRun& run, const PageRun& wanted) const;
  bool preload(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count);
  void count_misses(uint32_t pages) const;
  void count_hits(uint32_t pages) const;
  Status miss(Call& call, const HeldRun& run, uint32_t page_in_run);
  Status compute_wave(Call& call);
  void pass_wave(Call& call);
  void release_passed();
  void compute_on_host(Call& call);
  void wave_angles(const Call& call);
  Status prepare(Call& call);
  Status select(Call& call);
  Status reserve_selection(const Call& call);
  void select_tile(const Call& call, uint32_t tile_index, uint8_t* work);
  void keep_wanted(Call& call);
  void note_used(const Call& call, size_t wave_index);
  void add_mass(const Tile& tile, const SelectionScores& scores) const;
  uint32_t window_of(const Tile& tile, const PageRun& run, uint64_t window) const;
  uint32_t chosen_of(const Tile& tile, const PageRun& run) const;
  void note_folded(const Tile& tile) const;
  void note_missed(const Call& call, const Tile& tile) const;
  void finish(Call& call);
  void attend_own_pages(Call& call, const Tile& tile, const Lane& lane);

  bool prepare_tile(const Call& call, const Tile& tile) const;
  void finish_tile(const Call& call, const Tile& tile) const;
  const uint8_t* section_of(const Call& call, const HeldRun& run, uint32_t page, uint32_t kv_head) const;
  const uint8_t* first_section(const Call& call, const Tile& tile, size_t wave_index) const;
  void attend_run(const Call& call, const Tile& tile, size_t wave_index, uint32_t pages, const uint8_t* next,
                  const Lane& lane, const AttendState& state) const;
  uint32_t seen_pages(const Call& call, const Tile& tile, size_t wave_index) const;
  uint32_t attended_pages(const Call& call, const Tile& tile, size_t wave_index) const;
  // Of a cache with a device (attend_carry.cc).
  Status measure_link();
  Status compute_with_device(Call& call);
  WaveWork wave_work(const Call& call) const;
  Status carry_pages(const Call& call, uint32_t count);
  void count_places(const Call& call);
  void note_device_speed(Nanoseconds idle, Nanoseconds end);
  // Of pages that lie on the device (attend_device.cc).
  bool has_room_on_device() const;
  Status begin_on_device(Call& call);
  Status give_to_device(Call& call, uint32_t refs);
  void merge_batch();
  Status end_on_device();
  void abandon_device();
  void merge_from_device(std::span<const DeviceTile> tiles);
  Status load_queries(Call& call);
  void list_device_pages(const Call& call, uint32_t entry, SectionRef* sections);
  size_t share_device_rows(const Call& call, size_t first, uint32_t refs);
  void cut_device_rows(const Call& call, size_t first, size_t shared, uint32_t refs);
  size_t first_angle(uint32_t refs) const;
  void turn_device_pages(const Call& call, const Tile& tile, uint32_t refs);
  void turn_device_rows(const Call& call, const Tile& tile, uint32_t refs, size_t begin,
                        DeviceRows* rows) const;
  bool window_begins_in(const Call& call, const Tile& tile, uint32_t page) const;
  // Of those where each tile has chosen its own (attend_device_chosen.cc).
  Status begin_chosen_on_device(Call& call);
  Status add_chosen(Call& call, const EntryTiles& entry, size_t i, bool left_out, uint32_t* refs);
  void list_chosen(const Call& call, const Tile& tile, bool left_out, SectionRef* sections);
  void add_windowed_head(const Call& call, const Tile& tile, const DeviceRows& all, uint32_t count);
  void attend_rest(const Call& call, const Tile& tile, size_t wave_index, const Lane& lane) const;
  void add_rest(const Tile& tile, const float* m, const float* l) const;
  Lane lane(uint32_t index) const;
  AttendState state_of(const Tile& tile) const;
  AttendState partial(uint32_t row) const;

  CacheContext context_;
  BudgetedBytes work_;
  float* q_ = nullptr;            // [rows][head_dim]
  AttendState total_{};           // [rows]
  AttendState partials_{};        // [partial_rows_]
  float* base_angles_ = nullptr;  // [wave runs][cos, sin][kRunPages][rotary_dim / 2], pre_rope only
  uint8_t* lanes_ = nullptr;
  size_t lane_bytes_ = 0;
  size_t scratch_bytes_ = 0;
  uint32_t partial_rows_ = 0;
  BudgetedBytes selection_;  // grows with the context
  SelectionSpace space_;     // its parts
  // Of a wave's pages on the device. They keep their memory from wave to wave.
  std::vector<DeviceRows> device_rows_;  // what is launched
  std::vector<uint32_t> device_pages_;   // of the entry or the tile at hand, ascending
  std::vector<CarriedPage> carried_;     // to it, of the wave
  double link_ = 0;                      // as AttendSpeeds has it, like the meters
  SpeedMeter host_speed_;
  SpeedMeter device_speed_;
  DeviceBatch batch_;
  AttendPlan plan_;
  std::vector<HeldRun> passed_;  // runs of this call that the device may still read
  std::deque<HeldRun> held_;     // runs of this call from the wave's first on, in order
  std::deque<HeldRun> ahead_;    // of what is attended next
};

}  // namespace quire
