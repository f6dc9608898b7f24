// Steps of training on the pretend device: what they upload, what they wait for, and that their numbers are the CPU's.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/adapter/adapter_file.h"
#include "moelora/train/loss_scaler.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/step.h"
#include "moelora/train/trained_parameters.h"
#include "nn/host_copy.h"
#include "support/pretend_device/pretend_device.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
namespace pretend = testing::pretend;

/// The tiny ChatGLM with an adapter, on a device.
struct OnDevice : fixture::ToyRun {
  explicit OnDevice(const at::Device& device, double dropout = 0.0) {
    model->to(device);
    eject(adapter);
    adapter = fixture::tiny_adapter(model, dropout);
    fixture::fill_b(adapter);
    adapter->to(device);
  }
};

StepSamples samples_of(const std::vector<data::Example>& examples) {
  StepSamples samples;
  for (const data::Example& example : examples) {
    samples.draws.push_back(static_cast<std::int64_t>(samples.examples.size()));
    samples.examples.push_back(&example);
  }
  return samples;
}

TEST(DeviceTrainingStep, UploadsOnceForAMicroBatchAndDoesNotWait) {
  const at::Device device = pretend::install();
  OnDevice run(device);
  run.training.resize(7);
  const StepSamples samples = samples_of(run.training);
  const GradientOptions options{.dropout_seed = 7, .micro_batch_tokens = 24};
  const std::size_t micro_batches = begin_gradients(*run.model, run.adapter.get(), samples, options).values.size();
  ASSERT_GT(micro_batches, 2u);
  pretend::reset();
  const LabelLosses losses = begin_gradients(*run.model, run.adapter.get(), samples, options);
  const pretend::Counters counters = pretend::counters();
  EXPECT_EQ(counters.waits, 0) << counters.to_text();
  EXPECT_LE(counters.uploads, static_cast<std::int64_t>(2 * micro_batches)) << counters.to_text();
  OnDevice host(at::kCPU);
  host.training.resize(7);
  const SampleLosses expected =
      begin_gradients(*host.model, host.adapter.get(), samples_of(host.training), options).read();
  const SampleLosses found = losses.read();
  EXPECT_EQ(found.labels, expected.labels);
  for (std::size_t i = 0; i < found.sums.size(); ++i) {
    EXPECT_NEAR(found.sums[i], expected.sums[i], 1e-4 * expected.sums[i]) << i;
  }
}

TEST(DeviceTrainingStep, AdamWNeitherWaitsNorUploads) {
  const at::Device device = pretend::install();
  std::vector<at::Tensor> of_host, of_device;
  io::NamedTensors host, there;
  for (int i = 0; i < 40; ++i) {
    const at::Tensor start = at::randn({17, 3 + i});
    host.emplace_back("p" + std::to_string(i), start.clone().requires_grad_());
    there.emplace_back("p" + std::to_string(i), start.to(device).requires_grad_());
  }
  AdamW expected(host, {.weight_decay = 0.05});
  AdamW optimizer(there, {.weight_decay = 0.05});
  LossScaler scaler(true, device);
  for (const double value : {3.0, 1e-3, HUGE_VAL, 0.7}) {
    for (std::size_t i = 0; i < host.size(); ++i) {
      const at::Tensor gradient = at::randn(host[i].second.sizes()) * value;
      host[i].second.mutable_grad() = gradient;
      there[i].second.mutable_grad() = gradient.to(device) * scaler.device_scale();
    }
    pretend::reset();
    const at::Tensor norm = optimizer.collect_on_device(scaler.device_scale(), 1.0);
    optimizer.step(1e-2);
    scaler.update_on_device(optimizer.found_inf());
    const pretend::Counters counters = pretend::counters();
    EXPECT_EQ(counters.waits, 0) << counters.to_text();
    if (value != 3.0) {  // the first step says which parameters have a gradient
      EXPECT_EQ(counters.uploads, 0) << counters.to_text();
    }
    EXPECT_LE(counters.operators, 25) << counters.to_text();
    if (std::isfinite(expected.collect_gradients(1.0, 1.0))) {
      expected.step(1e-2);
      scaler.good_step();
    } else {
      scaler.skip_step();
    }
    EXPECT_EQ(scaler.device_scale().item<double>(), scaler.scale());
    for (std::size_t i = 0; i < host.size(); ++i) {
      EXPECT_TRUE(at::allclose(there[i].second.cpu(), host[i].second, 1e-5, 1e-6)) << i;
    }
  }
}

TEST(DeviceTrainingStep, ValuesAreSentAndReadLater) {
  const at::Device device = pretend::install();
  const at::Tensor a = at::rand({3, 2});
  const at::Tensor b = at::rand({4});
  const std::vector<at::Tensor> sent{a.to(device), at::Tensor(), b.to(device)};
  pretend::reset();
  nn::HostCopy copy(sent);
  EXPECT_TRUE(copy.arrived());
  const std::vector<at::Tensor> values = copy.values();
  EXPECT_EQ(pretend::counters().waits, 0) << pretend::counters().to_text();
  EXPECT_TRUE(at::equal(values[0], a));
  EXPECT_FALSE(values[1].defined());
  EXPECT_TRUE(at::equal(values[2], b));
}

TEST(DeviceTrainingRun, TrainsAsTheCpuDoes) {
  const at::Device device = pretend::install();
  testing::TemporaryFolder folder;
  TrainingOptions options = fixture::toy_options(4);
  options.log_every = 3;
  options.batch_size = 3;
  OnDevice run(device, 0.1);
  run.validation.resize(3);
  run(folder.path() / "device", options);
  OnDevice host(at::kCPU, 0.1);
  host.validation.resize(3);
  host(folder.path() / "cpu", options);
  const auto found = fixture::log_without_times(folder.path() / "device");
  const auto expected = fixture::log_without_times(folder.path() / "cpu");
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto a = nlohmann::ordered_json::parse(found[i]).flatten();
    const auto b = nlohmann::ordered_json::parse(expected[i]).flatten();
    ASSERT_EQ(a.size(), b.size()) << found[i];
    for (const auto& [key, value] : b.items()) {
      if (value.is_number()) {
        EXPECT_NEAR(a[key].get<double>(), value.get<double>(), 2e-3 * std::abs(value.get<double>())) << key;
      } else {
        EXPECT_EQ(a[key], value) << key;
      }
    }
  }
}

/// A step waits for nothing between two readings of the whole: here from one checkpoint to the next.
TEST(DeviceTrainingRun, WaitsOnlyWhereItSaves) {
  const at::Device device = pretend::install();
  testing::TemporaryFolder folder;
  TrainingOptions options = fixture::toy_options(5);
  options.checkpoint_every = 5;
  options.batch_size = 3;
  OnDevice run(device);
  run.validation.clear();
  std::vector<std::int64_t> waits;
  run.callbacks.on_step = [&](const StepReport&) { waits.push_back(pretend::counters().waits); };
  pretend::reset();
  run(folder.path() / "run", options);
  ASSERT_EQ(waits.size(), 5u);
  EXPECT_EQ(waits.back(), waits.front()) << pretend::counters().to_text();
}

}  // namespace
}  // namespace moelora::train
