#pragma once
// The families that come with the library.

#include <memory>
#include <vector>

#include "moelora/model/family.h"

namespace moelora::model {

std::vector<std::shared_ptr<const Family>> built_in_families();

}  // namespace moelora::model
