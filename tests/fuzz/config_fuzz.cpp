// Input: first byte: which configuration (training, model, adapter); then its JSON text. What is accepted must come
// back the same from its own JSON.
#include <nlohmann/json.hpp>

#include "fuzz/support.h"
#include "moelora/adapter/config.h"
#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/config.h"
#include "moelora/train/config.h"

namespace {

template <typename Config>
void check(const nlohmann::ordered_json& json) {
  const Config config = Config::from_json(json);
  const auto written = config.to_json();
  moelora::fuzz::require(Config::from_json(written).to_json() == written);
}

}  // namespace

int fuzz_config(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  if (size == 0) {
    return 0;
  }
  const auto path = file.write({reinterpret_cast<const char*>(data) + 1, size - 1});
  fuzz::be_quiet();
  fuzz::accepted([&] {
    const auto json = io::read_json_file(path);
    if (data[0] % 3 == 0) {
      check<train::TrainConfig>(json);
    } else if (data[0] % 3 == 1) {
      check<model::ChatGlmConfig>(json);
      model::ChatGlmConfig::from_json(json).parameter_count(true);
    } else {
      check<MoeLoraConfig>(json);
    }
  });
  return 0;
}
