#include "train/step_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "moelora/data/balance.h"
#include "moelora/io/error.h"

namespace moelora::train {
namespace {

// The buffer behind the gradients: for each parameter 1 if this rank has a gradient, for each sample's loss two fp32
// whose sum is the fp64 (its other summands are zeros, so nothing is rounded), then the wish to stop.
struct Tail {
  std::int64_t parameters;
  std::int64_t losses;
  std::int64_t high() const { return parameters; }
  std::int64_t low() const { return parameters + losses; }
  std::int64_t stop() const { return parameters + 2 * losses; }
  std::int64_t size() const { return stop() + 1; }
};

}  // namespace

std::vector<std::int64_t> samples_of_rank(const std::vector<const data::Example*>& examples,
                                          const ProcessGroup& ranks) {
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : examples) {
    lengths.push_back(example->length());
  }
  return data::balance(lengths, ranks.size())[static_cast<std::size_t>(ranks.rank())];
}

StepExchange::StepExchange(ProcessGroup& ranks, const io::NamedTensors& parameters)
    : ranks_(ranks), begins_{0}, device_(at::kCPU) {
  for (const auto& [name, parameter] : parameters) {
    shapes_.push_back(parameter.sizes().vec());
    begins_.push_back(begins_.back() + parameter.numel());
    device_ = parameter.device();
  }
}

StepExchange::Share StepExchange::sum(const Share& share) {
  const at::NoGradGuard no_grad;
  const auto parameters = static_cast<std::int64_t>(shapes_.size());
  const Tail tail{parameters, static_cast<std::int64_t>(share.losses.size())};
  const std::int64_t size = begins_.back() + tail.size();
  if (!buffer_.defined() || buffer_.numel() != size) {
    buffer_ = at::zeros({size}, at::TensorOptions(at::kFloat).device(device_));
  }
  std::vector<at::Tensor> slots;
  at::Tensor rest = at::zeros({tail.size()});
  float* numbers = rest.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < parameters; ++i) {
    slots.push_back(buffer_.narrow(0, begins_[i], begins_[i + 1] - begins_[i]).view(shapes_[i]));
    if (share.gradients[i].defined()) {
      slots[i].copy_(share.gradients[i]);
      numbers[i] = 1.0F;
    } else {
      slots[i].zero_();
    }
  }
  for (std::int64_t i = 0; i < tail.losses; ++i) {
    const auto high = static_cast<float>(share.losses[i]);
    numbers[tail.high() + i] = high;
    numbers[tail.low() + i] = static_cast<float>(share.losses[i] - static_cast<double>(high));
  }
  numbers[tail.stop()] = share.stop ? 1.0F : 0.0F;
  at::Tensor end = buffer_.narrow(0, begins_.back(), tail.size());
  end.copy_(rest);

  ranks_.sum(buffer_);

  rest.copy_(end);
  Share total;
  for (std::int64_t i = 0; i < parameters; ++i) {
    total.gradients.push_back(numbers[i] > 0.0F ? slots[i] : at::Tensor());
  }
  for (std::int64_t i = 0; i < tail.losses; ++i) {
    total.losses.push_back(static_cast<double>(numbers[tail.high() + i]) +
                           static_cast<double>(numbers[tail.low() + i]));
  }
  total.stop = numbers[tail.stop()] > 0.0F;
  return total;
}

SampleLosses gather_losses(ProcessGroup& ranks, const std::vector<const data::Example*>& all,
                           const std::vector<std::int64_t>& mine, const SampleLosses& own) {
  const at::Tensor sums = at::zeros({static_cast<std::int64_t>(all.size())}, at::kDouble);
  double* values = sums.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    values[mine[i]] = own.sums[i];
  }
  ranks.sum(sums);
  return losses_of(all, {values, values + all.size()});
}

SampleLosses losses_of(const std::vector<const data::Example*>& examples, std::vector<double> sums) {
  SampleLosses losses;
  losses.sums = std::move(sums);
  for (const data::Example* example : examples) {
    losses.labels.push_back(example->label_count());
    losses.tokens += example->length();
  }
  return losses;
}

void check_same_on_ranks(ProcessGroup& ranks, const nlohmann::ordered_json& own) {
  const std::vector<std::string> all = ranks.gather(own.dump());
  const auto first = nlohmann::ordered_json::parse(all.front());
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    std::string different;
    const auto other = nlohmann::ordered_json::parse(all[rank]);
    for (const auto& [key, value] : first.items()) {
      if (!other.contains(key) || other.at(key) != value) {
        different += (different.empty() ? "" : ", ") + key;
      }
    }
    MOELORA_CHECK(different.empty(), "rank ", rank, " of ", all.size(), " differs from rank 0 in: ", different,
                  "; all ranks need the same configuration, model and data, and see the same output folder");
  }
}

}  // namespace moelora::train
