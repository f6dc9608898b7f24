#include "model/families.h"

#include "moelora/model/chatglm/family.h"
#include "moelora/model/llama/family.h"

namespace moelora::model {

// One line for each.
std::vector<std::shared_ptr<const Family>> built_in_families() {
  return {
      chatglm_family(),
      llama_family(),
  };
}

}  // namespace moelora::model
