#pragma once
// The pretend device's memory, and page-locked host memory (ordinary memory that is marked).

#include <c10/core/Allocator.h>

#include <cstdint>

namespace moelora::testing::pretend {

c10::Allocator& device_allocator();
c10::Allocator& pinned_allocator();
bool is_device_memory(const void* place);
bool is_pinned_memory(const void* place);

std::int64_t peak_bytes();
void reset_peak();

}  // namespace moelora::testing::pretend
