// Merging a task into all weights on the device, its base kept there.

#include "moelora/adapter/merge.h"

#include "benchmarks/model_s.h"
#include "gpu/bench/rows.h"

namespace moelora::bench {

void merge_on_device(const DeviceOptions& options) {
  model::ChatGlm model = random_model(options);
  Adapter adapter = random_adapter(model);
  const char* const tasks[] = {"task 0", "task 1"};
  const auto timed = [&](int round, const MergeOptions& merge) {
    return seconds_of([&] {
      merge_for_task(adapter, tasks[round % 2], merge);
      wait_for(options.device);
    });
  };
  for (const bool measure : {true, false}) {
    MergeOptions merge;
    merge.measure = measure;
    std::vector<double> first, again;
    for (int round = 0; round <= options.rounds; ++round) {
      const double one = timed(round, merge);
      const double other = timed(round + 1, merge);
      unmerge(adapter);
      if (round > 0) {  // the first one compiles kernels and fills the allocator
        first.push_back(1e3 * one);
        again.push_back(1e3 * other);
      }
    }
    const std::string how = measure ? ", with certificate" : ", without certificate";
    report({12, options.shape + ": merge with a copy on the device" + how, "ms", 30.0, 12.0}, median_interval(first));
    report({12, options.shape + ": switch to another task, base on the device" + how, "ms", 30.0, 12.0},
           median_interval(again));
  }
}

}  // namespace moelora::bench
