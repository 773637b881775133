// Where the pages of a wave that lie in host memory are attended: by the CPU where they lie, or on the
// device, which they are carried up to first. A pure function of bytes and speeds, asked once per wave.
//
// The two work side by side, and the wave ends with the later of them. Of n pages in host memory x go up:
//
//     device(x) = [x > 0] * kCarrySeconds + W_d / device + x * (b / link + w / device)
//     host(x)   = (n - x) * w / host
//
// with b the bytes of a page, w its work, W_d the work of pages that the device has. device(x) is a sum
// because a wave's pages are copied before they are attended; of several waves one is copied while the other
// is attended, which ends earlier than this says. The answer is the x of at most `room` that ends first, up
// to rounding where both end at the same time. A page's work is its bytes times the query rows of a kv head
// that see it, rows below kReadingRows counting as that many: for so few it is reading that takes time, in
// decode; a prefill's chunk attends each page for thousands of rows, so that carrying it once is little
// beside that.
//
// Thread safety: pure functions; a SpeedMeter belongs to one thread.
#pragma once

#include <cstdint>

namespace quire {

// What carrying takes beside the bytes: a launch, and the way there.
inline constexpr double kCarrySeconds = 10e-6;
inline constexpr uint32_t kReadingRows = 4;

// 0: not known, or where a user says so: to be measured.
struct AttendSpeeds {
  double link = 0;    // bytes per second from host memory to the device
  double host = 0;    // work per second of the CPU, all threads
  double device = 0;  // work per second of the device
};

struct WaveWork {
  uint32_t pages = 0;      // that may be carried
  double page_bytes = 0;   // of one of them
  double page_work = 0;    // likewise
  double device_work = 0;  // of pages that lie on the device
};

constexpr double attend_work(double bytes, uint64_t rows) {
  return bytes * static_cast<double>(rows < kReadingRows ? kReadingRows : rows);
}

// How many pages of the wave are carried up. room: pages that the device has frames for. A link of no speed
// carries nothing; where the CPU has none all goes up that can; a device of none takes no time.
uint32_t pages_to_carry(const WaveWork& wave, const AttendSpeeds& speeds, uint32_t room);

// A speed as observed: a mean in which old observations fade, or what it is set to.
class SpeedMeter {
 public:
  // configured: 0 for an observed speed, which is `assumed` until something has been observed.
  SpeedMeter(double configured, double assumed);
  void add(double work, double seconds);
  double speed() const { return speed_; }

 private:
  const bool fixed_;
  bool observed_ = false;
  double speed_;
};

}  // namespace quire
