// Of a library that is built without LoRAHub's search of weights, and so without NLopt (MOELORA_LORAHUB=OFF).

#include "moelora/adapter/lorahub.h"
#include "moelora/io/error.h"

namespace moelora {

std::string lorahub_missing() {
  return "this build has no LoRAHub: install libnlopt-dev and configure with -DMOELORA_LORAHUB=ON";
}

LoraHubResult search_weights(std::int64_t, const std::function<double(const std::vector<double>&)>&,
                             const LoraHubOptions&) {
  throw Error(lorahub_missing());
}

}  // namespace moelora
