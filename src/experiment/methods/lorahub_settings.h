#pragma once
// Section "lorahub": of the methods, and of the cells that learn a new task.

#include "moelora/experiment/own_settings.h"

namespace moelora::experiment {

class LoraHubSettings : public OwnSettings {
 public:
  std::int64_t examples = 16;     ///< Of the task, out of the validation part: the LoRAs have not seen them.
  std::int64_t evaluations = 40;  ///< Of the loss on them.

  void fields(io::FieldVisitor& visit) override {
    visit.section({"lorahub", "Weights of the single LoRAs, searched for each task."}, [&](io::FieldVisitor& section) {
      section({"examples", "of the task, out of the validation part"}, examples, io::at_least(1));
      section({"evaluations", "of the loss on them"}, evaluations, io::at_least(1));
    });
  }
};

}  // namespace moelora::experiment
