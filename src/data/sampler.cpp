#include "moelora/data/sampler.h"

#include <algorithm>
#include <numeric>

#include "moelora/data/random.h"
#include "moelora/io/error.h"

namespace moelora::data {
namespace {

/// Stream number of the order of an epoch's batches: no stream of samples has it.
constexpr std::uint64_t kBatchOrder = ~0ull;

}  // namespace

Sampler::Sampler(std::vector<std::int64_t> task_of_sample, std::int64_t batch_size, Batching batching,
                 std::uint64_t seed)
    : samples_(static_cast<std::int64_t>(task_of_sample.size())),
      batch_size_(batch_size),
      batching_(batching),
      seed_(seed) {
  MOELORA_CHECK(samples_ > 0, "expected at least one sample to draw from, found none");
  MOELORA_CHECK(batch_size > 0, "expected batch_size of at least 1, found ", batch_size);
  const std::int64_t largest = *std::max_element(task_of_sample.begin(), task_of_sample.end());
  streams_.resize(batching == Batching::random ? 1 : static_cast<std::size_t>(largest + 1));
  for (std::int64_t sample = 0; sample < samples_; ++sample) {
    const std::int64_t task = task_of_sample[static_cast<std::size_t>(sample)];
    MOELORA_CHECK(task >= 0, "expected task indices of 0 or more, found ", task);
    streams_[batching == Batching::random ? 0 : static_cast<std::size_t>(task)].push_back(sample);
  }
  passes_.resize(streams_.size());
}

/// An endless sequence: pass after pass over the stream's samples, each shuffled by (seed, stream, pass).
std::int64_t Sampler::sample_at(std::int64_t stream_index, std::int64_t position) {
  const std::vector<std::int64_t>& samples = streams_[static_cast<std::size_t>(stream_index)];
  const auto count = static_cast<std::int64_t>(samples.size());
  Pass& pass = passes_[static_cast<std::size_t>(stream_index)];
  if (pass.number != position / count) {
    pass.number = position / count;
    pass.order = samples;
    shuffle(pass.order,
            stream(seed_, static_cast<std::uint64_t>(stream_index), static_cast<std::uint64_t>(pass.number)));
  }
  return pass.order[static_cast<std::size_t>(position % count)];
}

/// by_task: after e epochs a task of n samples has filled floor(e·n / batch_size) batches.
std::int64_t Sampler::batches_before(std::int64_t epoch) const {
  std::int64_t batches = 0;
  for (const std::vector<std::int64_t>& samples : streams_) {
    batches += epoch * static_cast<std::int64_t>(samples.size()) / batch_size_;
  }
  return batches;
}

/// Finds the epoch of the next step and the order of its batches.
void Sampler::prepare_epoch() {
  std::int64_t low = 0;
  std::int64_t high = 1;
  while (batches_before(high) <= step_) {
    high *= 2;
  }
  while (high - low > 1) {  // batches_before(low) <= step_ < batches_before(high)
    const std::int64_t middle = low + (high - low) / 2;
    (batches_before(middle) <= step_ ? low : high) = middle;
  }
  if (low == epoch_) {
    return;
  }
  epoch_ = low;
  epoch_begin_ = batches_before(epoch_);
  epoch_streams_.clear();
  for (std::size_t index = 0; index < streams_.size(); ++index) {
    const auto count = static_cast<std::int64_t>(streams_[index].size());
    const std::int64_t batches = (epoch_ + 1) * count / batch_size_ - epoch_ * count / batch_size_;
    epoch_streams_.insert(epoch_streams_.end(), static_cast<std::size_t>(batches), static_cast<std::int64_t>(index));
  }
  shuffle(epoch_streams_, stream(seed_, kBatchOrder, static_cast<std::uint64_t>(epoch_)));
}

Sampler::Draw Sampler::next() {
  Draw draw;
  std::int64_t stream_index = 0;
  std::int64_t position = step_ * batch_size_;
  if (batching_ == Batching::by_task) {
    if (epoch_ < 0 || step_ < epoch_begin_ ||
        step_ >= epoch_begin_ + static_cast<std::int64_t>(epoch_streams_.size())) {
      prepare_epoch();
    }
    const auto place = epoch_streams_.begin() + (step_ - epoch_begin_);
    stream_index = *place;
    const auto count = static_cast<std::int64_t>(streams_[static_cast<std::size_t>(stream_index)].size());
    const std::int64_t earlier = std::count(epoch_streams_.begin(), place, stream_index);
    position = (epoch_ * count / batch_size_ + earlier) * batch_size_;
  }
  for (std::int64_t place = 0; place < batch_size_; ++place) {
    draw.samples.push_back(sample_at(stream_index, position + place));
    draw.draws.push_back(step_ * batch_size_ + place);
  }
  ++step_;
  return draw;
}

SamplerState Sampler::state() const { return {seed_, step_}; }

void Sampler::restore(const SamplerState& state) {
  MOELORA_CHECK(state.seed == seed_, "expected a sampler state with seed ", seed_, ", found seed ", state.seed,
                "; resume with the seed that the run began with");
  MOELORA_CHECK(state.step >= 0, "expected a sampler state at step 0 or later, found ", state.step);
  step_ = state.step;
}

double Sampler::epoch() const {
  return static_cast<double>(step_) * static_cast<double>(batch_size_) / static_cast<double>(samples_);
}

}  // namespace moelora::data
