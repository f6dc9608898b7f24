#pragma once
// Weights that are no base model of the family that was expected, by their names.

#include <string>

#include "moelora/io/tensor_folder.h"
#include "moelora/model/family.h"

namespace moelora::model {

/// Of a P-Tuning v2 prefix encoder.
bool is_of_prefix(const std::string& name);

/// Error if the folder holds a prefix alone, saying what to do with it.
void check_is_no_prefix(const io::TensorFolder& weights);

/// Error if the folder holds something else than a base model of this family, saying what it is.
void check_is_base(const io::TensorFolder& weights, const Family& family);

}  // namespace moelora::model
