#pragma once
// The rows of the table in tests/benchmarks/README.md that a GPU measures; each prints its JSON lines.

#include "benchmarks/harness.h"
#include "gpu/bench/model.h"

namespace moelora::bench {

void step_on_device(const DeviceOptions& options);    ///< row 8
void memory_on_device(const DeviceOptions& options);  ///< row 10
void decode_on_device(const DeviceOptions& options);  ///< row 11
void merge_on_device(const DeviceOptions& options);   ///< row 12
void lengths(const DeviceOptions& options);           ///< what row 9's yardstick has to compute: one JSON line

}  // namespace moelora::bench
