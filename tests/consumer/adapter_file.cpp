#include "moelora/adapter/adapter_file.h"

#include "own_headers.h"

std::string saved_and_loaded(torch::nn::Module& base, const std::string& folder, const std::string& base_fingerprint) {
  moelora::MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  moelora::Adapter adapter = moelora::inject(base, config, moelora::TaskNames({"one"}), "saved");
  moelora::save_adapter(*adapter, folder, base_fingerprint);
  moelora::eject(adapter);
  moelora::Adapter loaded = moelora::load_adapter(base, folder, base_fingerprint);
  moelora::eject(loaded);
  return moelora::read_adapter_info(folder).base_fingerprint;
}
