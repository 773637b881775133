// Brings pages to where they can be read, and holds them there: runs of pages for attention, single pages for
// truncate.
//
// A held run keeps its pages pinned, in memory or in staging memory. Thread safety: one thread per object.
#pragma once

#include <array>
#include <cstdint>

#include "kvcache/config.h"
#include "kvcache/residency.h"

namespace quire {

// Up to kRunPages consecutive pages of one table.
struct HeldRun {
  const PageTable* table = nullptr;
  uint32_t first_page = 0;
  uint32_t count = 0;
  std::array<Page*, kRunPages> pages{};
  std::array<const uint8_t*, kRunPages> bytes{};  // after ready_run nullptr means lost
  LoadId load;                                    // of the pages that were not in memory
  uint32_t loading = 0;                           // bit i: page i comes with the load
  uint32_t pinned = 0;                            // bit i: page i is pinned here
  uint32_t wanted = 0;                            // bit i: page i is held; the others get no bytes
  uint32_t on_device = 0;                         // bit i: bytes of page i are memory of the PageDevice
  std::array<HeadMask, kRunPages> heads{};        // of page i: what the load brings
  // What came with a load that was started before anybody knew what would be wanted: of page i the sections
  // of early_heads[i], at early_bytes[i]; after ready_run only of pages that came in two parts.
  LoadId early_load;
  uint32_t early = 0;    // bit i: page i comes with early_load
  bool guessed = false;  // what is early was guessed, or is a guess itself
  std::array<HeadMask, kRunPages> early_heads{};
  std::array<const uint8_t*, kRunPages> early_bytes{};
};

enum class Acquire : uint8_t {
  kHeld,
  kNoStaging,  // no staging memory is free: release something first
};

// All pages of a run.
constexpr uint32_t all_pages(uint32_t count) { return (2U << (count - 1)) - 1; }

// Pins the wanted pages and starts loading those that are not in memory. Pages that are lost or of another
// rope epoch get no bytes. heads: [count], the kv heads whose sections the caller will read, by page; of a
// page that comes from disk the others may be anything. Empty: all. The run holds nothing after kNoStaging.
// preloaded: nothing, or a run that began at the same page; what it brings is not read again, and it is
// released unless the result is kNoStaging.
Acquire acquire_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch, HeldRun* preloaded,
                    HeldRun* run);
// Only starts the loading: pages in memory are not pinned, so that they may still move down. claim_run turns
// a run of which all was wanted into an acquired one, or returns false when it is none, or the table or a
// place has changed; the run is released then.
Acquire preload_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch, HeldRun* run);
bool claim_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
               HeldRun* run);
// Waits for the load and fills in bytes.
void ready_run(Residency& residency, HeldRun* run);
// True when ready_run would not wait.
bool run_is_ready(Residency& residency, const HeldRun& run);
void release_run(Residency& residency, HeldRun* run);

// One page at a time. The bytes, of host memory, are good until the next read, the end of the reader or other
// work on the device.
class PageReader {
 public:
  explicit PageReader(Residency& residency) : residency_(residency) {}
  ~PageReader() { release_run(residency_, &run_); }
  PageReader(const PageReader&) = delete;
  PageReader& operator=(const PageReader&) = delete;

  // kMiss when the page is lost.
  Result<const uint8_t*> read(const PageTable* table, uint32_t page);
  const Page* page() const { return run_.pages[0]; }

 private:
  Residency& residency_;
  HeldRun run_;
};

}  // namespace quire
