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

/// The type that a configuration's model will have: its own, with "auto" float32 on a CPU and the stored one (float16
/// where there is no folder) on a card, which is `card`, of --card, or that of a device cuda.
at::ScalarType planned_dtype(const train::ModelSection& model, const std::string& card);

/// Of a model of this shape that is not loaded.
double unloaded_weight_bytes(const model::ModelConfig& shape, at::ScalarType dtype);

struct PlanTarget {
  std::optional<PlannedCard> card;  ///< nothing: this machine's processor
  PlanLengths lengths = PlanLengths::of_data;
  double absent_bytes = 0.0;  ///< of weights that are not loaded but will be; 0: they are
};

/// The help text of --card.
std::string card_help();

/// Prints the peak memory and the time of a step of `session`'s model on these examples, from the run's first steps,
/// and what is assumed; for a card also the micro-batch that its memory allows.
void print_plan(const Session& session, const train::TrainConfig& config, const std::vector<data::Example>& examples,
                const PlanTarget& target);

}  // namespace moelora::cli
