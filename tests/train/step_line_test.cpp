#include "train/step_line.h"

#include <gtest/gtest.h>

#include <limits>

namespace moelora::train {
namespace {

TEST(StepLine, SaysWhatWasSkipped) {
  LossScaler scaler(true);
  scaler.restore(4.0, 7, 2, 0);
  StepReport report{.step = 3, .loss = 1.5, .learning_rate = 0.25, .gradient_norm = 2.0, .tokens = 9};
  EXPECT_EQ(
      step_line(report, 1.25, 0.5, scaler).dump(),
      R"({"step":3,"loss":1.5,"lr":0.25,"grad_norm":2.0,"tokens":9,"epoch":1.25,"seconds":0.5,"loss_scale":4.0})");
  scaler.skip_step();
  report.skipped = true;
  report.gradient_norm = std::numeric_limits<double>::infinity();
  EXPECT_EQ(step_line(report, 1.25, 0.5, scaler).dump(),
            R"({"step":3,"loss":1.5,"lr":0.25,"grad_norm":null,"tokens":9,"epoch":1.25,"seconds":0.5,"loss_scale":2.0,)"
            R"("skipped":true,"skipped_steps":3})");
  report.skipped = false;
  report.gradient_norm = 2.0;
  EXPECT_EQ(step_line(report, 1.25, 0.5, LossScaler(false)).dump(),
            R"({"step":3,"loss":1.5,"lr":0.25,"grad_norm":2.0,"tokens":9,"epoch":1.25,"seconds":0.5})");
}

}  // namespace
}  // namespace moelora::train
