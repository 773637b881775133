// Carver: cuts arrays off one block of memory, each aligned to 64 bytes. With a null base it only adds up, so
// that one function gives both the size of a block and its parts. Owns nothing. Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <class T>
  T* take(size_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace quire
