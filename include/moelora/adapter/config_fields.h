#pragma once
// The fields of an adapter's configuration: the one list of its keys (io/fields.h).

#include "moelora/adapter/config.h"
#include "moelora/io/fields.h"

namespace moelora {

/// Those of the gate and of the router stand beside the others, in this order. Rules are in MoeLoraConfig::validate().
void fields(io::FieldVisitor& visit, MoeLoraConfig& config);

}  // namespace moelora
