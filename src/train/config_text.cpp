#include "moelora/train/config_text.h"

#include "train/config_fields.h"

namespace moelora::train {

std::string documented_config(const TrainConfig& config) {
  return io::documented_json(
      config.to_json(), train_fields(),
      "// A configuration of `moelora train`. Lines of // are comments; --set training.steps=100 overrides a key.\n");
}

std::string documented_default_config() {
  TrainConfig config;
  config.model.path = "FOLDER";
  config.data.train = "FILE";
  return documented_config(config);
}

}  // namespace moelora::train
