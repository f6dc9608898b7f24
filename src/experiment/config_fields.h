#pragma once
// The fields of `moelora experiment`'s configuration: the one list of its keys (io/fields.h).

#include <nlohmann/json.hpp>

#include "moelora/experiment/config.h"
#include "moelora/io/field_visitors.h"

namespace moelora::experiment {

/// Sections that a training run has too, as JSON: train::TrainConfig reads them.
struct CommonSections {
  nlohmann::ordered_json model;
  nlohmann::ordered_json adapter;
  nlohmann::ordered_json data;
  nlohmann::ordered_json training;
};

void fields(io::FieldVisitor& visit, ExperimentConfig& config, CommonSections& common);

}  // namespace moelora::experiment
