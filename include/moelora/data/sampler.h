#pragma once
// Which samples a step trains on. The whole state is (seed, draws so far): any step's samples can be computed again.

#include <cstdint>
#include <string>
#include <vector>

namespace moelora::data {

enum class Batching {
  random,   ///< Each batch mixes tasks at random: an epoch is one shuffle of all samples (the paper's way).
  by_task,  ///< Each batch holds one task; batches of all tasks come in random order.
};

struct SamplerState {
  std::uint64_t seed = 0;
  std::int64_t step = 0;  ///< next step
};

class Sampler {
 public:
  /// task_of_sample [n]: the task of each sample.
  Sampler(std::vector<std::int64_t> task_of_sample, std::int64_t batch_size, Batching batching, std::uint64_t seed);

  struct Draw {
    std::vector<std::int64_t> samples;  ///< indices, batch_size of them (an epoch's rest is carried into the next)
    std::vector<std::int64_t> draws;    ///< global draw index of each: step · batch_size + place
  };
  Draw next();
  SamplerState state() const;
  void restore(const SamplerState& state);  ///< Error if the seed differs.
  double epoch() const;                     ///< passes over the data so far

 private:
  void prepare_epoch(std::int64_t epoch);
  std::vector<std::int64_t> task_of_sample_;
  std::int64_t batch_size_;
  Batching batching_;
  std::uint64_t seed_;
  std::int64_t step_ = 0;
  std::int64_t prepared_epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace moelora::data
