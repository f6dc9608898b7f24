#include "moelora/train/progress.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/train/log.h"
#include "support/shared.h"

namespace moelora::train {
namespace {

TEST(Progress, ShowsStepLossRateSpeedAndTimeLeft) {
  EXPECT_EQ(progress_text(120, 300, 1.23456, 1.8e-4, 12345, 80, 0),
            "step 120/300 loss 1.2346 lr 1.80e-04 12.3k tokens/s ETA 1m20s");
  EXPECT_EQ(progress_text(1, 4, 1.0, 1e-3, 900, 5, 4), "step 1/4 [█···] loss 1.0000 lr 1.00e-03 900 tokens/s ETA 5s");
}

TEST(RunLog, IsCutToTheRecordedLength) {
  testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "run" / "log.jsonl";
  std::int64_t after_first = 0;
  {
    RunLog log(path, 0);
    log.write({{"step", 1}});
    after_first = log.length();
    log.write({{"step", 2}});
  }
  {
    RunLog log(path, after_first);
    log.write({{"step", 20}});
  }
  std::ifstream stream(path);
  std::string text((std::istreambuf_iterator<char>(stream)), {});
  EXPECT_EQ(text, "{\"step\":1}\n{\"step\":20}\n");
  RunLog shorter(path, 1000);
  EXPECT_EQ(shorter.length(), static_cast<std::int64_t>(text.size()));
}

}  // namespace
}  // namespace moelora::train
