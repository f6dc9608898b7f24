// Train and eval mode, dropout's key, and what an adapter says of itself.

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "adapter/user_model.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

using testing::fill_updates;
using testing::has;
using testing::user_config;
using testing::user_tasks;
using testing::UserModel;

class AdapterMode : public ::testing::Test {
 protected:
  AdapterMode() { log::set_level(log::Level::warning); }
  ~AdapterMode() override { log::set_level(log::Level::info); }

  Adapter make(double dropout) {
    MoeLoraConfig config = user_config();
    config.dropout = dropout;
    Adapter adapter = inject(*model_, config, user_tasks());
    fill_updates(adapter);
    return adapter;
  }
  at::Tensor run(Adapter& adapter, const nn::DropoutKey& key = {}) {
    return model_->hidden(x_, adapter->context(segments_, single_tasks({0, 1}), key));
  }
  /// How often the missing key is warned of while `action` runs.
  static std::int64_t warnings(const std::function<void()>& action) {
    ::testing::internal::CaptureStderr();
    action();
    const std::string text = ::testing::internal::GetCapturedStderr();
    std::int64_t count = 0;
    for (auto at = text.find("without a key"); at != std::string::npos; at = text.find("without a key", at + 1)) {
      ++count;
    }
    return count;
  }

  UserModel model_;
  nn::Segments segments_ = nn::Segments::for_batch(2, 4);
  at::Tensor x_ = at::randn({2, 4, 6});
};

TEST_F(AdapterMode, DropoutWithoutAKeyIsWarnedOfOnceInTrainMode) {
  Adapter adapter = make(0.5);
  EXPECT_EQ(warnings([&] {
              run(adapter);
              run(adapter);
            }),
            1);
  Adapter other = (eject(adapter), make(0.5));
  EXPECT_EQ(warnings([&] {
              at::NoGradGuard no_grad;
              run(other);
            }),
            0)
      << "an evaluation";
  EXPECT_EQ(warnings([&] { run(other, nn::DropoutKey::for_step(1, 0, 2)); }), 0) << "with a key";
  other->eval();
  EXPECT_EQ(warnings([&] { run(other); }), 0) << "in eval mode";
  other->train();
  EXPECT_EQ(warnings([&] { run(other); }), 1);
  Adapter without = (eject(other), make(0.0));
  EXPECT_EQ(warnings([&] { run(without); }), 0) << "no dropout";
}

TEST_F(AdapterMode, EvalTurnsDropoutOff) {
  Adapter adapter = make(0.5);
  const auto key = nn::DropoutKey::for_step(3, 0, 2);
  const at::Tensor dropped = run(adapter, key);
  adapter->eval();
  const at::Tensor plain = run(adapter);
  EXPECT_TRUE(at::equal(run(adapter, key), plain));
  EXPECT_FALSE(adapter->context(segments_, single_tasks({0, 1}), key).dropout.active());
  adapter->train();
  EXPECT_TRUE(at::equal(run(adapter, key), dropped));
  EXPECT_FALSE(at::allclose(dropped, plain));
  EXPECT_FALSE(at::equal(run(adapter, nn::DropoutKey::for_step(3, 1, 2)), dropped)) << "another step, another mask";
}

TEST_F(AdapterMode, PrintsWhatItTrains) {
  Adapter adapter = make(0.25);
  std::ostringstream text;
  text << *adapter;
  // A and B of 4 · (6 + 10) twice, E [3, 8], W_T [2, 8].
  for (const char* part : {"moelora::Adapter(name=default, routing=task, rank=4, experts=2", "dropout=0.25", "tasks=3",
                           "linears=2", "trainable parameters=168)",
                           "up): moelora::MoeLoraLinear(in_features=6, "
                           "out_features=10, rank=4, experts=2)",
                           "gate): moelora::TaskGate(tasks=3, experts=2, task_embedding_dim=8)"}) {
    EXPECT_TRUE(has(text.str(), part)) << part << " is missing in\n" << text.str();
  }
  freeze(*adapter);
  text.str("");
  text << *adapter;
  EXPECT_TRUE(has(text.str(), "trainable parameters=0)")) << text.str();
  MoeLoraConfig large = user_config({"wide"});
  large.rank = 16;
  torch::nn::Module wide_model;
  wide_model.register_module("wide", nn::Linear(1000, 1000));
  text.str("");
  text << *inject(wide_model, large, user_tasks());
  EXPECT_TRUE(has(text.str(), "trainable parameters=32,040)")) << text.str();
}

}  // namespace
}  // namespace moelora
