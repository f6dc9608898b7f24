#pragma once
// What a training run will take, printed.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"
#include "moelora/train/card.h"
#include "moelora/train/config.h"

namespace moelora::cli {

enum class PlanLengths { of_data, assumed };  ///< Where the examples' lengths come from.

/// The card that a plan is for.
struct PlannedCard {
  train::Card card;  ///< of one that is here: its name is the device's, and its peaks are not known
  std::string how_chosen;
  bool present = false;
};

/// What is planned for with the configuration's `device`: `name` (of --card) if it is given, else the card that is
/// here, else an assumed one for cuda, and nothing, the CPU, for auto.
std::optional<PlannedCard> planned_card(const std::string& name, const std::string& device, at::ScalarType dtype);

struct ShapeOfModel {
  std::shared_ptr<const model::ModelConfig> config;
  std::string from;  ///< for people
};

/// The shape of a training configuration's model: that of the folder if it is there, of `init`, else the one of the
/// first family that has a best-known model.
ShapeOfModel model_shape(const train::ModelSection& section);

/// The type that a configuration's model will have: its own, with "auto" the stored one on a card (float16 where there
/// is no folder) and float32 on a CPU.
at::ScalarType planned_dtype(const train::ModelSection& model, bool on_card);

struct PlanTarget {
  std::optional<PlannedCard> card;  ///< nothing: this machine's processor
  PlanLengths lengths = PlanLengths::of_data;
  double absent_bytes = 0.0;  ///< of weights that are not loaded but will be; 0: they are
};

/// The help text of --card.
inline constexpr const char* kCardHelp =
    "a card to plan for that need not be here: v100-16gb, v100-32gb, a100-40gb, a100-80gb, h100-80gb";

/// Prints the peak memory and the time of a step of `session`'s model on these examples, from the run's first steps,
/// and what is assumed; for a card also the micro-batch that its memory allows.
void print_plan(const Session& session, const train::TrainConfig& config, const std::vector<data::Example>& examples,
                const PlanTarget& target);

}  // namespace moelora::cli
