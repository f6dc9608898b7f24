#include "moelora/train/config_text.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::train {
namespace {

nlohmann::ordered_json read_back(const std::string& text) {
  testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "config.json") << text;
  return io::read_json_file(folder.path() / "config.json");
}

TEST(DocumentedConfig, IsTheDefaultConfiguration) {
  const auto json = read_back(documented_default_config());
  TrainConfig expected;
  expected.model.path = "FOLDER";
  expected.data.train = "FILE";
  EXPECT_EQ(json, expected.to_json());
  EXPECT_EQ(TrainConfig::from_json(json).to_json(), expected.to_json());
}

// A key without a meaning is a key that was added without one.
TEST(DocumentedConfig, SaysTheMeaningOfEveryKey) {
  std::istringstream lines(documented_default_config());
  std::string before;
  int keys = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find_first_not_of(' ');
    const bool comment = line.compare(first, 2, "//") == 0;
    if (!comment && line[first] == '"') {
      ++keys;
      EXPECT_NE(before.find("// "), std::string::npos) << "nothing is said of " << line;
    }
    before = line;
  }
  EXPECT_GE(keys, 50);
  for (const char* key : {"// \"init\": ", "// \"tokenizer\": ", "// \"prefix\": ", "// \"table\": ",
                          "// \"balance_loss\": ", "// \"adapter_from\": "}) {
    EXPECT_NE(documented_default_config().find(key), std::string::npos) << key;
  }
}

TEST(DocumentedConfig, ShowsWhatAConfigurationHas) {
  const auto json = nlohmann::ordered_json::parse(
      R"({"mode": "new_task", "adapter_from": "a", "model": {"init": {"hidden_size": 64}, "tokenizer": "t"},
          "data": {"train": "名", "validation": "v"}, "training": {"steps": 7}})");
  const TrainConfig config = TrainConfig::from_json(json);
  EXPECT_EQ(read_back(documented_config(config)), config.to_json());
}

}  // namespace
}  // namespace moelora::train
