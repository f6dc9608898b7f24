// What an error of a run advises is what resuming accepts.

#include "moelora/train/diverged.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>
#include <new>

#include "io/raises.h"
#include "moelora/train/trainer.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
using fixture::ToyRun;
using io::raises;

TEST(Advice, OfAnErrorIsWhatResumingAccepts) {
  testing::TemporaryFolder folder;
  TrainingOptions options = fixture::toy_options(12);
  const fs::path output = folder.path() / "run";
  std::string text;
  ToyRun run;
  run.callbacks.on_step = [&](const StepReport& report) {
    if (report.step == 7) {
      at::NoGradGuard no_grad;
      run.adapter->linears().front().delta->tensor("B").fill_(std::numeric_limits<float>::infinity());
    }
  };
  try {
    run(output, options);
  } catch (const TrainingDiverged& error) {
    text = error.what();
  }
  EXPECT_NE(text.find("the loss of step 8 is not finite"), std::string::npos) << text;
  EXPECT_NE(text.find("--resume-from step-3 --set training.learning_rate="), std::string::npos) << text;
  EXPECT_NE(text.find("there are step-3, step-6"), std::string::npos) << text;
  options.learning_rate = 1e-3;
  EXPECT_EQ(ToyRun()(output, options, true, [](auto& in) { in.resume_from = 3; }).step, 12);

  const fs::path full = folder.path() / "full";
  ToyRun large;
  large.callbacks.on_step = [](const StepReport& report) {
    if (report.step == 4) {
      throw std::bad_alloc();
    }
  };
  EXPECT_TRUE(raises([&] { large(full, options); },
                     "out of memory: lower training.micro_batch_tokens (now 32) or set training.memory_budget_gb"));
  options.micro_batch_tokens = 16;
  options.memory_budget_gb = 20.0;
  EXPECT_EQ(ToyRun()(full, options, true).step, 12);
}

}  // namespace
}  // namespace moelora::train
