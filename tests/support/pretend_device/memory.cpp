#include "support/pretend_device/memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

/// One reserved range, cut from the front; pieces that were freed are kept by size. Only the part that was ever cut is
/// opened and closed, so that a small model pays for a few pages.
class Arena {
 public:
  void* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (base_ == nullptr) {
      reserve();
    }
    const std::size_t size = (std::max<std::size_t>(bytes, 1) + kStep - 1) / kStep * kStep;
    auto& pieces = free_[size];
    char* found = nullptr;
    if (!pieces.empty()) {
      found = pieces.back();
      pieces.pop_back();
    } else {
      TORCH_CHECK(used_ + size <= kSize, "pretend device: out of memory");
      found = base_ + used_;
      used_ += size;
      if (used_ > guarded_) {
        const std::size_t more = std::min((used_ + kChunk - 1) / kChunk * kChunk, kSize);
        madvise(base_ + guarded_, more - guarded_, MADV_DODUMP);
        if (open_ > 0) {
          protect(guarded_, more, PROT_READ | PROT_WRITE);
        }
        guarded_ = more;
      }
    }
    sizes_[found] = size;
    live_ += static_cast<std::int64_t>(size);
    peak_ = std::max(peak_, live_);
    return found;
  }
  void give(void* place) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(static_cast<char*>(place));
    live_ -= static_cast<std::int64_t>(found->second);
    free_[found->second].push_back(found->first);
    sizes_.erase(found);
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (open_++ == 0) {
      protect(0, guarded_, PROT_READ | PROT_WRITE);
    }
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--open_ == 0) {
      protect(0, guarded_, PROT_NONE);
    }
  }
  bool holds(const void* place) const { return base_ != nullptr && place >= base_ && place < base_ + kSize; }
  std::int64_t live() const { return live_; }
  std::int64_t peak() const { return peak_; }
  void reset_peak() { peak_ = live_; }

 private:
  static constexpr std::size_t kSize = std::size_t{8} << 30;
  static constexpr std::size_t kChunk = std::size_t{2} << 20;  // a huge page: one entry to change instead of 512
  static constexpr std::size_t kStep = 256;                    // CUDA's alignment

  void reserve() {
    void* range = mmap(nullptr, kSize + kChunk, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(range != MAP_FAILED, "pretend device: no address range");
    base_ = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(range) + kChunk - 1) / kChunk * kChunk);
    madvise(base_, kSize, MADV_HUGEPAGE);
    madvise(base_, kSize,
            MADV_DONTDUMP);  // marks what was never cut, which else would merge with the rest at each close
  }
  void protect(std::size_t begin, std::size_t end, int how) {
    if (end > begin) {
      TORCH_CHECK(mprotect(base_ + begin, end - begin, how) == 0, "pretend device: mprotect failed");
    }
  }

  std::mutex mutex_;
  char* base_ = nullptr;
  std::size_t used_ = 0, guarded_ = 0;
  int open_ = 0;
  std::int64_t live_ = 0, peak_ = 0;
  std::map<std::size_t, std::vector<char*>> free_;
  std::map<char*, std::size_t> sizes_;
};

Arena& arena() {
  static auto* one = new Arena;  // outlives tensors in static storage
  return *one;
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* place = arena().take(bytes);
    const Unlocked unlocked;
    std::memset(place, 0xff, bytes);  // NaN in every floating-point type
    return {place, place, &release, c10::Device(c10::kPrivateUse1, 0)};
  }
  static void release(void* place) { arena().give(place); }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    const Unlocked unlocked;
    std::memcpy(to, from, bytes);
  }
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* place = std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64);
    TORCH_CHECK(place != nullptr, "pretend device: no pinned memory");
    const std::lock_guard lock(mutex);
    sizes[static_cast<const char*>(place)] = std::max<std::size_t>(bytes, 1);
    return {place, place, &release, c10::Device(c10::kCPU)};
  }
  static void release(void* place);
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool holds(const void* place) {
    const std::lock_guard lock(mutex);
    const auto* where = static_cast<const char*>(place);
    auto next = sizes.upper_bound(where);
    return next != sizes.begin() && where < (--next)->first + next->second;
  }

  std::mutex mutex;
  std::map<const char*, std::size_t> sizes;
};

PinnedAllocator& pinned() {
  static auto* one = new PinnedAllocator;
  return *one;
}

void PinnedAllocator::release(void* place) {
  {
    const std::lock_guard lock(pinned().mutex);
    pinned().sizes.erase(static_cast<const char*>(place));
  }
  std::free(place);
}

}  // namespace

c10::Allocator& device_allocator() {
  static auto* one = new DeviceAllocator;
  return *one;
}
c10::Allocator& pinned_allocator() { return pinned(); }
bool is_device_memory(const void* place) { return arena().holds(place); }
bool is_pinned_memory(const void* place) { return pinned().holds(place); }
std::int64_t peak_bytes() { return arena().peak(); }
std::int64_t live_bytes() { return arena().live(); }
void reset_peak() { arena().reset_peak(); }

Unlocked::Unlocked() { arena().open(); }
Unlocked::~Unlocked() { arena().close(); }

}  // namespace moelora::testing::pretend
