#include "moelora/train/process_group.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "train/fixture.h"
#include "train/step_exchange.h"

namespace moelora::train {
namespace {

// The real thing: this test program starts itself several times, each time with the variables of a launcher and the
// name of the work that a rank does (Ranks.DISABLED_Work).
constexpr const char* kWorkVariable = "MOELORA_TEST_WORK";
constexpr const char* kFolderVariable = "MOELORA_TEST_FOLDER";

class Variables {
 public:
  Variables(std::initializer_list<std::pair<const char*, std::string>> values) {
    for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
                             "MOELORA_RANK_TIMEOUT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"}) {
      const char* present = std::getenv(name);
      saved_.emplace_back(name, present != nullptr ? std::optional<std::string>(present) : std::nullopt);
      unsetenv(name);
    }
    for (const auto& [name, value] : values) setenv(name, value.c_str(), 1);
  }
  ~Variables() {
    for (const auto& [name, value] : saved_) {
      if (value) {
        setenv(name, value->c_str(), 1);
      } else {
        unsetenv(name);
      }
    }
  }

 private:
  std::vector<std::pair<const char*, std::optional<std::string>>> saved_;
};

int free_port() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  close(listener);
  return bound ? ntohs(address.sin_port) : 0;
}

// Starts `size` ranks; returns their exit codes. Their output stands between the test's own.
std::vector<int> run_ranks(int size, const std::string& work, const std::filesystem::path& folder = {},
                           int launcher_port = 0) {
  const std::string port = std::to_string(launcher_port > 0 ? launcher_port : free_port());
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    const std::vector<std::string> arguments{
        "/usr/bin/env",
        "RANK=" + std::to_string(rank),
        "WORLD_SIZE=" + std::to_string(size),
        "MASTER_ADDR=127.0.0.1",
        "MASTER_PORT=" + port,
        "MOELORA_RANK_TIMEOUT=3",
        "OMP_NUM_THREADS=1",
        std::string("TORCHELASTIC_USE_AGENT_STORE=") + (launcher_port > 0 ? "True" : "False"),
        "TORCHELASTIC_RESTART_COUNT=2",
        std::string(kWorkVariable) + "=" + work,
        std::string(kFolderVariable) + "=" + folder.string(),
        program,
        "--gtest_also_run_disabled_tests",
        "--gtest_filter=Ranks.DISABLED_Work",
        "--gtest_brief=1"};
    std::vector<char*> pointers;
    for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
    pointers.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      execv(pointers.front(), pointers.data());
      _exit(127);
    }
    children.push_back(child);
  }
  std::vector<int> codes;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

void exchange_sums_and_texts(ProcessGroup& ranks) {
  const auto size = static_cast<double>(ranks.size());
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong, at::kByte}) {
    at::Tensor values = at::full({3}, ranks.rank() + 1, dtype);
    ranks.sum(values);
    EXPECT_EQ(values.to(at::kDouble).sum().item<double>(), 3 * size * (size + 1) / 2);
  }
  const std::vector<std::string> texts = ranks.gather(std::string(static_cast<std::size_t>(ranks.rank()), 'x') + "\n");
  ASSERT_EQ(static_cast<int>(texts.size()), ranks.size());
  EXPECT_EQ(texts[0], "\n");
  EXPECT_EQ(texts[2], "xx\n");
  ranks.barrier();

  // Gradients where they are, losses to the last bits, a wish to stop from one rank.
  const io::NamedTensors parameters{{"a", at::full({2, 2}, 0.0)}, {"b", at::full({3}, 0.0)}, {"c", at::full({1}, 0.0)}};
  StepExchange exchange(ranks, parameters);
  StepExchange::Share share;
  share.gradients = {at::full({2, 2}, 1.0 + ranks.rank()), ranks.is_first() ? at::Tensor() : at::full({3}, 2.0),
                     at::Tensor()};
  share.losses = std::vector<double>(3, 0.0);
  share.losses[static_cast<std::size_t>(ranks.rank())] = 1.0 / 3.0 + ranks.rank();
  share.stop = ranks.rank() == 1;
  const StepExchange::Share total = exchange.sum(share);
  EXPECT_EQ(total.gradients[0].sum().item<double>(), 4 * size * (size + 1) / 2);
  EXPECT_EQ(total.gradients[1].sum().item<double>(), 3 * 2 * (size - 1));
  EXPECT_FALSE(total.gradients[2].defined());
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(total.losses[static_cast<std::size_t>(i)], 1.0 / 3.0 + i, 1e-13);
  }
  EXPECT_TRUE(total.stop);
  share.losses[0] = std::nan("");
  share.stop = false;
  const StepExchange::Share second = exchange.sum(share);
  EXPECT_TRUE(std::isnan(second.losses[0]));
  EXPECT_FALSE(second.stop);
}

// The exchange of a device, on tensors of the CPU: rank r has sample r, whose labels have the losses 10 r, 10 r + 1, …
void exchange_label_losses(ProcessGroup& ranks) {
  const auto examples = fixture::toy_examples(ranks.size());
  std::vector<const data::Example*> all;
  for (const data::Example& example : examples) {
    all.push_back(&example);
  }
  const io::NamedTensors parameters{{"a", at::full({2, 2}, 0.0)}, {"b", at::full({3}, 0.0)}, {"c", at::full({1}, 0.0)}};
  StepExchange exchange(ranks, parameters);
  const auto size = static_cast<double>(ranks.size());
  for (const bool stop : {true, false}) {
    LabelLosses own;
    own.samples = losses_of({all[static_cast<std::size_t>(ranks.rank())]}, {});
    own.of_samples = {{0}};
    own.values = {at::arange(own.samples.labels.front(), at::kFloat) + 10.0 * ranks.rank()};
    const auto total = exchange.sum_on_device(
        {at::full({2, 2}, 1.0 + ranks.rank()), ranks.is_first() ? at::Tensor() : at::full({3}, 2.0), at::Tensor()}, own,
        all, {ranks.rank()}, stop && ranks.rank() == 1);
    EXPECT_EQ(total.gradients[0].sum().item<double>(), 4 * size * (size + 1) / 2);
    EXPECT_EQ(total.gradients[1].sum().item<double>(), 3 * 2 * (size - 1));
    EXPECT_FALSE(total.gradients[2].defined());
    EXPECT_EQ(total.stop, stop);
    const SampleLosses losses = total.losses.read();
    ASSERT_EQ(losses.sums.size(), examples.size());
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const auto labels = static_cast<double>(examples[i].label_count());
      EXPECT_EQ(losses.sums[i], labels * (labels - 1) / 2 + 10.0 * labels * static_cast<double>(i));
    }
  }
}

struct SmallRun {
  std::vector<data::Example> training = fixture::toy_examples(40);
  std::vector<data::Example> validation = fixture::toy_examples(9);
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model);

  TrainResult operator()(const std::filesystem::path& output, std::int64_t steps, bool resume, ProcessGroup* ranks,
                         const Callbacks& callbacks = fixture::quiet()) {
    TrainingOptions options = fixture::toy_options(steps);
    options.batch_size = 3;  // with four ranks one has nothing to do
    return train({*model,
                  adapter.get(),
                  training,
                  validation,
                  {"sum", "echo", "rest"},
                  output,
                  resume,
                  "base",
                  "tokenizer",
                  {},
                  ranks},
                 options, callbacks);
  }
};

// A rank's work, by name.
void do_work(const std::string& work, const std::filesystem::path& folder) {
  std::unique_ptr<ProcessGroup> ranks = ProcessGroup::from_environment();
  ASSERT_NE(ranks, nullptr);
  if (work == "exchange") {
    exchange_sums_and_texts(*ranks);
    exchange_label_losses(*ranks);
  } else if (work == "train") {
    SmallRun run;
    EXPECT_EQ(run(folder / "run", 8, false, ranks.get()).step, 8);
  } else if (work == "stop") {
    std::atomic<bool> stop = ranks->rank() == 1;
    Callbacks callbacks = fixture::quiet();
    callbacks.stop = &stop;
    SmallRun run;
    const TrainResult result = run(folder / "run", 8, false, ranks.get(), callbacks);
    EXPECT_TRUE(result.stopped);
    EXPECT_EQ(result.step, 1);
  } else if (work == "resume") {
    SmallRun run;
    EXPECT_EQ(run(folder / "run", 8, true, ranks.get()).step, 8);
  } else if (work == "differ") {
    SmallRun run;
    run.training.resize(static_cast<std::size_t>(40 - ranks->rank()));
    try {
      run(folder / "run", 2, false, ranks.get());
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("rank 1 of 2 differs from rank 0 in: run"), std::string::npos)
          << error.what();
    }
    return;
  } else if (work == "error" || work == "hang") {
    ranks->set_step(4);
    std::string text;
    try {
      if (ranks->rank() == 1 && work == "error") {
        ranks->abandon("out of memory");
        return;
      }
      if (ranks->rank() == 1) {
        std::this_thread::sleep_for(std::chrono::seconds(8));
      }
      ranks->barrier();
    } catch (const RankLost& lost) {
      text = lost.what();
    }
    EXPECT_EQ(text.find(work == "error" ? "rank 1 of 3 ended with an error (step 4): out of memory"
                                        : "rank 1 of 3 stopped answering (step 4)"),
              0u)
        << text;
    ranks.reset();  // waits until the others know too
    std::fflush(nullptr);
    std::_Exit(::testing::Test::HasFailure() ? 1 : 42);
  }
  ranks->finish();
}

TEST(Ranks, DISABLED_Work) {
  const char* work = std::getenv(kWorkVariable);
  ASSERT_NE(work, nullptr) << "started by the other tests only";
  do_work(work, std::getenv(kFolderVariable));
}

#define SKIP_WITHOUT_GLOO()                                   \
  if (!ProcessGroup::available())                             \
  GTEST_SKIP() << "this build has no process groups (gloo's " \
                  "headers are missing)"

TEST(Ranks, ExchangeSumsAndTexts) {
  SKIP_WITHOUT_GLOO();
  EXPECT_EQ(run_ranks(3, "exchange"), (std::vector<int>{0, 0, 0}));
}

// torchrun's own process holds the store, and all ranks are its clients.
TEST(Ranks, MeetAtTheLaunchersStore) {
  SKIP_WITHOUT_GLOO();
  const int port = free_port();
  // Another job's rank 0, which waits for the rest of its job, serves as the launcher.
  const pid_t launcher = fork();
  if (launcher == 0) {
    const std::string program = std::filesystem::read_symlink("/proc/self/exe");
    const std::string port_variable = "MASTER_PORT=" + std::to_string(port);
    execl("/usr/bin/env", "/usr/bin/env", "RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", port_variable.c_str(),
          "MOELORA_TEST_WORK=launcher", "MOELORA_TEST_FOLDER=", program.c_str(), "--gtest_also_run_disabled_tests",
          "--gtest_filter=Ranks.DISABLED_Work", "--gtest_brief=1", nullptr);
    _exit(127);
  }
  EXPECT_EQ(run_ranks(3, "exchange", {}, port), (std::vector<int>{0, 0, 0}));
  kill(launcher, SIGKILL);
  waitpid(launcher, nullptr, 0);
}

TEST(Ranks, TrainAsOneProcessDoesAlsoWithNothingToDo) {
  SKIP_WITHOUT_GLOO();
  testing::TemporaryFolder alone, four;
  SmallRun()(alone.path() / "run", 8, false, nullptr);
  ASSERT_EQ(run_ranks(4, "train", four.path()), (std::vector<int>{0, 0, 0, 0}));
  const auto expected = fixture::log_without_times(alone.path() / "run");
  const auto found = fixture::log_without_times(four.path() / "run");
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto a = nlohmann::ordered_json::parse(expected[i]);
    const auto b = nlohmann::ordered_json::parse(found[i]);
    for (const char* key : {"loss", "validation_loss", "grad_norm"}) {
      if (a.contains(key)) {
        EXPECT_NEAR(b[key].get<double>(), a[key].get<double>(), 1e-5 * a[key].get<double>()) << expected[i];
      }
    }
    for (const char* key : {"step", "tokens", "epoch", "lr", "best"}) {
      EXPECT_EQ(a.value(key, nlohmann::ordered_json()), b.value(key, nlohmann::ordered_json())) << expected[i];
    }
  }
  EXPECT_TRUE(std::filesystem::exists(four.path() / "run" / "adapter" / "adapter.safetensors"));
}

TEST(Ranks, StopTogetherAndGoOnWithOtherNumbers) {
  SKIP_WITHOUT_GLOO();
  testing::TemporaryFolder folder;
  ASSERT_EQ(run_ranks(2, "stop", folder.path()), (std::vector<int>{0, 0}));
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "run" / "checkpoints" / "step-1"));
  ASSERT_EQ(run_ranks(3, "resume", folder.path()), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(fixture::log_without_times(folder.path() / "run").size(), 8u + 3u);  // and validations of steps 3, 6, 8
}

TEST(Ranks, RefuseToTrainOnDifferentData) {
  SKIP_WITHOUT_GLOO();
  testing::TemporaryFolder folder;
  EXPECT_EQ(run_ranks(2, "differ", folder.path()), (std::vector<int>{0, 0}));
}

TEST(Ranks, NameTheOneThatFailsOrHangs) {
  SKIP_WITHOUT_GLOO();
  EXPECT_EQ(run_ranks(3, "error"), (std::vector<int>{42, 0, 42}));
  EXPECT_EQ(run_ranks(3, "hang"), (std::vector<int>{42, 42, 42}));
}

TEST(RankPlace, IsThatOfTheLauncher) {
  const Variables variables{
      {"RANK", "3"},       {"WORLD_SIZE", "8"},       {"MASTER_ADDR", "node-a"},    {"MASTER_PORT", "29501"},
      {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}, {"MOELORA_RANK_TIMEOUT", "7"}};
  const std::optional<RankPlace> place = place_from_environment();
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->rank, 3);
  EXPECT_EQ(place->size, 8);
  EXPECT_EQ(place->local_rank, 1);
  EXPECT_EQ(place->local_size, 2);
  EXPECT_EQ(place->address, "node-a");
  EXPECT_EQ(place->port, 29501);
  EXPECT_EQ(place->timeout, 7.0);
  EXPECT_FALSE(place->launcher_store);
}

TEST(RankPlace, OfASingleProcessThereIsNone) {
  {
    const Variables none{};
    EXPECT_FALSE(place_from_environment().has_value());
    EXPECT_EQ(ProcessGroup::from_environment(), nullptr);
  }
  const Variables one{{"WORLD_SIZE", "1"}, {"RANK", "0"}};
  EXPECT_FALSE(place_from_environment().has_value());
}

TEST(RankPlace, SaysEverythingThatIsMissing) {
  const Variables variables{{"WORLD_SIZE", "4"}, {"RANK", "4"}, {"MASTER_PORT", "soon"}};
  try {
    place_from_environment();
    FAIL() << "expected an error";
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"RANK: expected less than WORLD_SIZE = 4, found 4", "MASTER_ADDR: expected",
                             "MASTER_PORT: expected a whole number, 1 or more, found 'soon'"}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace moelora::train
