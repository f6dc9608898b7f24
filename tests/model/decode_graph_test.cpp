#include "model/decode_graph.h"

#include <gtest/gtest.h>

#include <string>

namespace moelora::model {
namespace {

class FakeRecorder : public StepRecorder {
 public:
  explicit FakeRecorder(std::string& log) : log_(log) {}
  void record(const std::function<void()>& step) override {
    log_ += "[";
    step();
    log_ += "]";
  }
  void replay() override { log_ += "r"; }

 private:
  std::string& log_;
};

// The first step of a form as it is, the second recorded and replayed, later ones replayed.
TEST(DecodeGraph, RecordsTheSecondStepOfAForm) {
  std::string log;
  DecodeGraph graph(std::make_unique<FakeRecorder>(log));
  const auto step = [&] { log += "s"; };
  std::string replayed;
  const auto run = [&](std::int64_t form) { replayed += graph.run(step, form) ? '1' : '0'; };
  for (int i = 0; i < 4; ++i) {
    run(1);
  }
  EXPECT_EQ(log, "s[s]rrr");
  run(2);
  run(2);
  EXPECT_EQ(log, "s[s]rrrs[s]r");
  graph.forget();
  run(2);
  run(2);
  run(2);
  EXPECT_EQ(log, "s[s]rrrs[s]rs[s]rr");
  EXPECT_EQ(replayed, "001100001");
}

TEST(DecodeGraph, WithoutARecorderEveryStepRunsAsItIs) {
  int steps = 0;
  DecodeGraph graph(make_step_recorder(c10::Device(c10::kCPU)));
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(graph.run([&] { ++steps; }, 1));
  }
  EXPECT_EQ(steps, 3);
}

}  // namespace
}  // namespace moelora::model
