#pragma once
// Which samples a step trains on. The whole state is (seed, draws so far): any step's samples can be computed again.

#include <cstdint>
#include <string>
#include <vector>

namespace moelora::data {

enum class Batching {
  random,   ///< Each batch mixes tasks at random: an epoch is one shuffle of all samples (the paper's way).
  by_task,  ///< Each batch holds one task; batches of all tasks come in random order. A task has as many batches as its
            ///< samples fill; what is left of an epoch is carried into the next, so that small tasks come too.
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
  /// A shuffle of one pass over some samples, made again when another pass is asked for.
  struct Pass {
    std::int64_t number = -1;
    std::vector<std::int64_t> order;
  };
  std::int64_t sample_at(std::int64_t stream, std::int64_t position);
  std::int64_t batches_before(std::int64_t epoch) const;
  void prepare_epoch();

  std::vector<std::vector<std::int64_t>> streams_;  ///< random: one, all samples; by_task: one for each task
  std::vector<Pass> passes_;                        ///< [streams]
  std::int64_t samples_;
  std::int64_t batch_size_;
  Batching batching_;
  std::uint64_t seed_;
  std::int64_t step_ = 0;
  std::int64_t epoch_ = -1;                  ///< by_task: the epoch that epoch_streams_ belongs to
  std::int64_t epoch_begin_ = 0;             ///< first step of that epoch
  std::vector<std::int64_t> epoch_streams_;  ///< stream of each of its batches, in their random order
};

}  // namespace moelora::data
