#pragma once
// Which samples a step trains on. The whole state is (seed, draws so far): any step's samples can be computed again.
//
// A sample of weight w is drawn w times in each pass over the data, where w is no whole number by turns: after p passes
// floor(w · p + φ) times, φ in (0, 1) being spread evenly over the samples of equal weight in an order that the seed
// draws. With all weights 1 every pass has each sample once.

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/data/example.h"

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
  /// task_of_sample [n]: the task of each sample. weights [n], or empty: all 1. Error: a weight outside
  /// kLeastWeight … kMostWeight.
  Sampler(std::vector<std::int64_t> task_of_sample, std::int64_t batch_size, Batching batching, std::uint64_t seed,
          std::vector<double> weights = {});

  static constexpr double kLeastWeight = 1e-3;
  static constexpr double kMostWeight = 1e3;

  struct Draw {
    std::vector<std::int64_t> samples;  ///< indices, batch_size of them (an epoch's rest is carried into the next)
    std::vector<std::int64_t> draws;    ///< global draw index of each: step · batch_size + place
  };
  Draw next();
  SamplerState state() const;
  void restore(const SamplerState& state);  ///< Error if the seed differs.
  double epoch() const;                     ///< passes over the data so far, by weight

 private:
  /// A shuffle of one pass over some samples, made again when another pass is asked for.
  struct Pass {
    std::int64_t number = -1;
    std::int64_t begin = 0;  ///< draws of the stream before it
    std::vector<std::int64_t> order;
  };
  std::int64_t sample_at(std::int64_t stream, std::int64_t position);
  void spread_phases();
  std::int64_t times_before(std::int64_t sample, std::int64_t pass) const;
  std::int64_t draws_before(std::int64_t stream, std::int64_t pass) const;
  std::int64_t pass_of(std::int64_t stream, std::int64_t position) const;
  std::int64_t batches_before(std::int64_t epoch) const;
  void prepare_epoch();

  std::vector<std::vector<std::int64_t>> streams_;  ///< random: one, all samples; by_task: one for each task
  std::vector<Pass> passes_;                        ///< [streams]
  std::vector<double> weights_;                     ///< [samples], or empty: all 1
  std::vector<double> phases_;                      ///< [samples] with weights: φ
  double pass_size_;                                ///< draws of a pass on average
  std::int64_t batch_size_;
  Batching batching_;
  std::uint64_t seed_;
  std::int64_t step_ = 0;
  std::int64_t epoch_ = -1;                  ///< by_task: the epoch that epoch_streams_ belongs to
  std::int64_t epoch_begin_ = 0;             ///< first step of that epoch
  std::vector<std::int64_t> epoch_streams_;  ///< stream of each of its batches, in their random order
};

/// Of examples, by their tasks and weights.
Sampler sampler_of(const std::vector<Example>& examples, std::int64_t batch_size, Batching batching,
                   std::uint64_t seed);

}  // namespace moelora::data
