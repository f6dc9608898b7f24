// Several threads may generate on one model at once, each with its own cache and context. The preset tsan runs these
// tests under the thread sanitizer.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <thread>

#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/model/chatglm/load.h"
#include "moelora/model/chatglm/tokenizer.h"
#include "moelora/model/generation.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 3;

using Answers = std::vector<TokenIds>;

/// What one thread does: prompts of different lengths in one batch, the tasks of its own, greedy and sampled.
class Work {
 public:
  Work(ChatGlm model, const Adapter& adapter, const ChatGlmTokenizer& tokenizer)
      : model_(std::move(model)), adapter_(adapter), tokenizer_(tokenizer) {}

  Answers answers(int worker, bool adapted) const {
    Answers all;
    for (const bool sample : {false, true}) {
      std::vector<Prompt> prompts;
      for (int i = 0; i < 3; ++i) {
        std::string text = "患者三天前受凉后出现咳嗽、发热";
        for (int more = 0; more < (worker + i) % 4; ++more) {
          text += "，体温最高39℃";
        }
        prompts.push_back(tokenizer_.build_prompt(tokenizer_.encode(text)));
      }
      GenerationOptions options;
      options.max_new_tokens = 12;
      options.sample = sample;
      options.seed = static_cast<std::uint64_t>(worker);
      const auto made = generate(const_cast<ChatGlmImpl&>(*model_), prompts, options, context_maker(worker, adapted));
      for (const Generation& answer : made) {
        all.push_back(answer.ids);
        tokenizer_.clean_response(tokenizer_.decode(answer.ids));
      }
    }
    return all;
  }

 private:
  nn::ContextMaker context_maker(int worker, bool adapted) const {
    if (!adapted) {
      return {};
    }
    std::vector<std::int64_t> tasks;
    for (int i = 0; i < 3; ++i) {
      tasks.push_back((worker * 3 + i) % adapter_->tasks().size());
    }
    return for_tasks(adapter_, single_tasks(tasks));
  }

  ChatGlm model_;
  Adapter adapter_;
  const ChatGlmTokenizer& tokenizer_;
};

class GenerationThreads : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto fixtures = testing::fixtures();
    tokenizer_ = std::make_unique<ChatGlmTokenizer>(fixtures / "chatglm-tiny");
    model_ = load_chatglm(fixtures / "chatglm-tiny");
    model_->eval();
    adapter_ = load_foreign_adapter(*model_, fixtures / "moelora-tiny");
    adapter_->eval();
  }

  /// All threads at once, on a model that nothing has run on before, then one after the other.
  void check(const std::function<bool(int worker)>& adapted, const std::function<bool(int worker)>& fails = {}) {
    const auto run = [&](const Work& work, int worker) {
      try {
        return work.answers(worker, adapted(worker));
      } catch (const Error&) {
        return Answers();
      }
    };
    const Work work(model_, adapter_, *tokenizer_);
    for (int round = 0; round < kRounds; ++round) {
      std::vector<Answers> together(kThreads);
      std::vector<std::thread> threads;
      for (int worker = 0; worker < kThreads; ++worker) {
        threads.emplace_back([&, worker] { together[worker] = run(work, worker); });
      }
      for (std::thread& thread : threads) {
        thread.join();
      }
      for (int worker = 0; worker < kThreads; ++worker) {
        EXPECT_EQ(together[worker], run(work, worker)) << "thread " << worker << ", round " << round;
        EXPECT_EQ(together[worker].size(), fails && fails(worker) ? 0u : 6u);
      }
    }
  }

  std::unique_ptr<ChatGlmTokenizer> tokenizer_;
  ChatGlm model_ = nullptr;
  Adapter adapter_ = nullptr;
};

TEST_F(GenerationThreads, OneModelWithAnAdapterAnswersAsAlone) {
  check([](int) { return true; });
}

TEST_F(GenerationThreads, AThreadWithoutTheAdaptersContextFailsAlone) {
  check([](int worker) { return worker % 2 == 0; }, [](int worker) { return worker % 2 == 1; });
}

TEST_F(GenerationThreads, AMergedModelAnswersAsAlone) {
  merge_for_task(adapter_, adapter_->tasks().name(0));
  check([](int) { return false; });
}

TEST_F(GenerationThreads, ABaseWithoutAdapterAnswersAsAlone) {
  eject(adapter_);
  check([](int) { return false; });
}

}  // namespace
}  // namespace moelora::model
