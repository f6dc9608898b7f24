#include "family.h"

#include <nlohmann/json.hpp>

#include "byte_tokenizer.h"
#include "decoder.h"
#include "moelora/io/dtype.h"
#include "moelora/io/json_reader.h"

namespace toy {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

class ToyModelConfig : public moelora::model::ModelConfig {
 public:
  explicit ToyModelConfig(const Config& config) : config_(config) {}
  moelora::model::ExpectedTensors expected_tensors() const override { return toy::expected_tensors(config_); }
  std::shared_ptr<moelora::model::CausalLM> make(const moelora::model::TensorSource& source) const override {
    return Decoder(config_, source).ptr();
  }
  std::int64_t num_layers() const override { return config_.layers; }
  moelora::model::SpecialTokens special_tokens() const override { return {kAnswer, kEnd, kPad}; }
  at::ScalarType declared_dtype() const override { return at::kFloat; }
  ordered_json to_json(at::ScalarType stored) const override {
    return {{"model_type", "toy_decoder"},
            {"vocab_size", config_.vocab_size},
            {"hidden_size", config_.hidden_size},
            {"layers", config_.layers},
            {"heads", config_.heads},
            {"kv_heads", config_.kv_heads},
            {"head_dim", config_.head_dim},
            {"max_sequence_length", config_.max_sequence_length},
            {"torch_dtype", moelora::io::dtype_name(stored)}};
  }
  std::vector<std::pair<std::string, std::string>> summary() const override {
    return {{"architecture", "toy decoder"}, {"layers", std::to_string(config_.layers)}};
  }

 private:
  Config config_;
};

class ToyFamily : public moelora::model::Family {
 public:
  moelora::model::FamilyTitle title() const override { return {"the toy decoder", "", "heads, kv_heads, head_dim"}; }
  bool recognises(const ordered_json& config) const override {
    const auto type = config.find("model_type");
    return type != config.end() && *type == "toy_decoder";
  }
  std::shared_ptr<const moelora::model::ModelConfig> read_config(const ordered_json& json) const override {
    moelora::io::JsonReader reader(json);
    Config config;
    std::string ignored;
    reader.read("model_type", ignored);
    reader.read("torch_dtype", ignored);
    reader.read("vocab_size", config.vocab_size);
    reader.read("hidden_size", config.hidden_size);
    reader.read("layers", config.layers);
    reader.read("heads", config.heads);
    reader.read("kv_heads", config.kv_heads);
    reader.read("head_dim", config.head_dim);
    reader.read("max_sequence_length", config.max_sequence_length);
    reader.finish();
    return std::make_shared<const ToyModelConfig>(config);
  }
  std::string tokenizer_file() const override { return "bytes.json"; }
  bool holds_tokenizer(const fs::path& path) const override { return fs::is_regular_file(path / tokenizer_file()); }
  std::unique_ptr<moelora::model::Tokenizer> load_tokenizer(const fs::path&, const ordered_json&) const override {
    return std::make_unique<ByteTokenizer>();
  }
};

}  // namespace

std::shared_ptr<const moelora::model::Family> family() { return std::make_shared<const ToyFamily>(); }

}  // namespace toy
