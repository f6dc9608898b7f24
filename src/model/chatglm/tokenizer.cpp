#include "moelora/model/chatglm/tokenizer.h"

#include <sentencepiece_processor.h>

#include <nlohmann/json.hpp>

#include "model/chatglm/text.h"
#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"

namespace moelora::model {

struct ChatGlmTokenizer::Impl {
  std::filesystem::path file;
  ChatGlmTokenizerOptions options;
  sentencepiece::SentencePieceProcessor pieces;
  std::string fingerprint;

  struct Special {
    std::string name;
    std::int64_t id = -1;  ///< with the image-token offset
  };
  Special bos{"<sop>"}, eos{"<eop>"}, unk{"<unk>"}, pad{"<pad>"}, mask{"[MASK]"}, gmask{"[gMASK]"};

  std::int64_t size() const { return options.num_image_tokens + pieces.GetPieceSize(); }

  /// Reads the model and looks up the special pieces. Error naming the file.
  void load();
  /// SentencePiece ids of text without special tokens, shifted by the image tokens.
  TokenIds encode_plain(std::string_view text) const;
  /// The special token that begins at the smallest index >= from, or nullptr; `at` receives its index.
  const Special* find_special(std::string_view text, std::size_t from, std::size_t& at) const;
  std::string prepare(std::string_view text) const;
  void check_id(std::int64_t id) const;
};

namespace {

constexpr const char* kTokenizerFile = "ice_text.model";

template <typename T>
void read_tokenizer_option(const nlohmann::ordered_json& config, const std::filesystem::path& file, const char* key,
                           T& value) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  // A token may be written as a dictionary with its text under "content".
  const nlohmann::ordered_json& given =
      found->is_object() && found->contains("content") ? found->at("content") : *found;
  bool good = !std::is_same_v<T, std::int64_t> || given.is_number_integer();
  try {
    if (good) value = given.get<T>();
  } catch (const nlohmann::json::exception&) {
    good = false;
  }
  if (!good) {
    throw Error(detail::concat(file.string(), ": unexpected value of \"", key, "\": ", given.dump().substr(0, 100)));
  }
}

}  // namespace

void ChatGlmTokenizer::Impl::load() {
  MOELORA_CHECK(std::filesystem::exists(file), "expected the tokenizer ", file.string(), ", found no such file; copy ",
                kTokenizerFile, " of the model's distribution there");
  constexpr std::int64_t kMostImageTokens = std::int64_t{1} << 31;
  MOELORA_CHECK(options.num_image_tokens >= 0 && options.num_image_tokens <= kMostImageTokens, file.string(),
                ": expected num_image_tokens from 0 to ", kMostImageTokens, ", found ", options.num_image_tokens);
  // Loading one takes several times its size. The published one has 2.7 MB.
  constexpr std::uintmax_t kLargestModel = std::uintmax_t{32} << 20;
  MOELORA_CHECK(std::filesystem::file_size(file) <= kLargestModel, file.string(), " has ",
                std::filesystem::file_size(file), " bytes, expected a SentencePiece model of at most ", kLargestModel);
  const std::string bytes = io::read_text_file(file);
  const auto status = pieces.LoadFromSerializedProto(bytes);
  // SentencePiece's own text tells lines of its source.
  const std::string kind = io::kind_of_file(bytes);
  MOELORA_CHECK(status.ok() && pieces.GetPieceSize() > 0, "expected a SentencePiece model in ", file.string(),
                ", found ",
                bytes.empty()  ? "an empty file"
                : status.ok()  ? "one without pieces"
                : kind.empty() ? "something else"
                               : kind,
                "; copy ", kTokenizerFile, " of the model's distribution there again");
  for (Special* special : {&bos, &eos, &unk, &pad, &mask, &gmask}) {
    const int id = pieces.PieceToId(special->name);
    MOELORA_CHECK(
        !special->name.empty() && id >= 0 && id < pieces.GetPieceSize() && pieces.IdToPiece(id) == special->name,
        file.string(), " has no piece \"", special->name, "\"; it is not a ChatGLM-6B tokenizer");
    special->id = options.num_image_tokens + id;
  }
  io::Sha256 hash;
  hash.update(pieces.serialized_model_proto());
  hash.update(detail::concat("\nnum_image_tokens ", options.num_image_tokens, "\ndo_lower_case ", options.do_lower_case,
                             "\nremove_space ", options.remove_space));
  for (const Special* special : {&bos, &eos, &unk, &pad, &mask, &gmask}) hash.update("\n" + special->name);
  fingerprint = hash.hex();
}

TokenIds ChatGlmTokenizer::Impl::encode_plain(std::string_view text) const {
  std::string marked(text);
  if (options.linebreak) marked = chatglm_text::encode_line_breaks(marked);
  if (options.whitespace) marked = chatglm_text::encode_blanks(marked);
  // SentencePiece always adds the dummy prefix to the first piece: give it a piece of its own and drop both.
  if (!options.dummy_prefix) marked.insert(0, "<n>");
  std::vector<int> ids;
  const auto status = pieces.Encode(marked, &ids);
  MOELORA_CHECK(status.ok(), file.string(), " cannot encode a text of ", text.size(), " bytes");
  TokenIds result;
  result.reserve(ids.size());
  for (std::size_t i = options.dummy_prefix ? 0 : 2; i < ids.size(); ++i)
    result.push_back(options.num_image_tokens + ids[i]);
  return result;
}

const ChatGlmTokenizer::Impl::Special* ChatGlmTokenizer::Impl::find_special(std::string_view text, std::size_t from,
                                                                            std::size_t& at) const {
  for (at = from; at < text.size(); ++at) {
    for (const Special* special : {&bos, &eos, &unk, &pad, &mask}) {
      if (text.substr(at).starts_with(special->name)) return special;
    }
  }
  return nullptr;
}

std::string ChatGlmTokenizer::Impl::prepare(std::string_view text) const {
  std::string result = options.remove_space ? chatglm_text::squeeze_spaces(text) : std::string(text);
  return options.do_lower_case ? chatglm_text::lower(result) : result;
}

void ChatGlmTokenizer::Impl::check_id(std::int64_t id) const {
  MOELORA_CHECK(id >= 0 && id < size(), "token id ", id, " is not in the vocabulary of ", file.string(),
                ": expected 0 to ", size() - 1);
}

ChatGlmTokenizer::ChatGlmTokenizer(const std::filesystem::path& path)
    : ChatGlmTokenizer(path, nlohmann::ordered_json::object()) {}

ChatGlmTokenizer::ChatGlmTokenizer(const std::filesystem::path& path, const nlohmann::ordered_json& settings)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.file = std::filesystem::is_directory(path) ? path / kTokenizerFile : path;
  const std::filesystem::path config_file = self.file.parent_path() / "tokenizer_config.json";
  bool offset_given = false;
  const bool has_file = std::filesystem::exists(config_file);
  if (has_file || !settings.empty()) {
    nlohmann::ordered_json config = has_file ? io::read_json_file(config_file) : nlohmann::ordered_json::object();
    MOELORA_CHECK(config.is_object(), config_file.string(), ": expected a JSON object, found ", config.type_name());
    config.update(settings);
    read_tokenizer_option(config, config_file, "do_lower_case", self.options.do_lower_case);
    read_tokenizer_option(config, config_file, "remove_space", self.options.remove_space);
    read_tokenizer_option(config, config_file, "num_image_tokens", self.options.num_image_tokens);
    read_tokenizer_option(settings, config_file, "linebreak", self.options.linebreak);
    read_tokenizer_option(settings, config_file, "whitespace", self.options.whitespace);
    read_tokenizer_option(settings, config_file, "dummy_prefix", self.options.dummy_prefix);
    offset_given = config.contains("num_image_tokens");
    read_tokenizer_option(config, config_file, "bos_token", self.bos.name);
    // The first distribution ended answers with `eop_token` and had </s> as `eos_token`.
    read_tokenizer_option(config, config_file, config.contains("eop_token") ? "eop_token" : "eos_token", self.eos.name);
    read_tokenizer_option(config, config_file, "unk_token", self.unk.name);
    read_tokenizer_option(config, config_file, "pad_token", self.pad.name);
    read_tokenizer_option(config, config_file, "mask_token", self.mask.name);
    read_tokenizer_option(config, config_file, "gmask_token", self.gmask.name);
  }
  // The model's configuration tells where <sop> must be: the offset if none is given, else a check.
  const std::filesystem::path model_file = self.file.parent_path() / "config.json";
  std::int64_t bos_wanted = -1;
  if (std::filesystem::exists(model_file)) {
    const nlohmann::ordered_json config = io::read_json_file(model_file);
    if (config.is_object()) read_tokenizer_option(config, model_file, "bos_token_id", bos_wanted);
  }
  if (!offset_given && bos_wanted >= 0) self.options.num_image_tokens = 0;
  self.load();
  if (bos_wanted < 0 || bos_wanted == self.bos.id) return;
  const std::int64_t offset = bos_wanted - (self.bos.id - self.options.num_image_tokens);
  MOELORA_CHECK(!offset_given && offset >= 0, model_file.string(), " has bos_token_id ", bos_wanted, ", but ",
                self.bos.name, " is token ", self.bos.id, " of ", self.file.string(), " with num_image_tokens ",
                self.options.num_image_tokens, "; model and tokenizer are of different distributions");
  self.options.num_image_tokens = offset;
  self.load();
}

ChatGlmTokenizer::ChatGlmTokenizer(const std::filesystem::path& model_file, const ChatGlmTokenizerOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = std::filesystem::is_directory(model_file) ? model_file / kTokenizerFile : model_file;
  impl_->options = options;
  impl_->load();
}

ChatGlmTokenizer::~ChatGlmTokenizer() = default;

TokenIds ChatGlmTokenizer::encode(std::string_view text) const {
  TokenIds ids;
  const auto append = [&](std::string_view part) {
    if (part.empty()) return;
    const TokenIds more = impl_->encode_plain(impl_->prepare(part));
    ids.insert(ids.end(), more.begin(), more.end());
  };
  bool after_special = false;
  for (std::size_t begin = 0;;) {
    std::size_t at;
    const Impl::Special* special = impl_->find_special(text, begin, at);
    std::string_view part = text.substr(begin, special == nullptr ? std::string_view::npos : at - begin);
    if (after_special) part = chatglm_text::strip_left(part);
    if (special == nullptr) {
      append(part);
      return ids;
    }
    append(chatglm_text::strip_right(part));
    ids.push_back(special->id);
    begin = at + special->name.size();
    after_special = true;
  }
}

std::string ChatGlmTokenizer::decode(const TokenIds& ids) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const std::int64_t id : ids) {
    impl_->check_id(id);
    if (id != impl_->pad.id) pieces.push_back(piece(id));
  }
  std::string text;
  const auto status = impl_->pieces.Decode(pieces, &text);
  MOELORA_CHECK(status.ok(), impl_->file.string(), " cannot decode ", ids.size(), " tokens: ", status.ToString());
  return chatglm_text::decode_markers(text);
}

std::string ChatGlmTokenizer::piece(std::int64_t id) const {
  impl_->check_id(id);
  const std::int64_t images = impl_->options.num_image_tokens;
  return id < images ? "<image_" + std::to_string(id) + ">" : impl_->pieces.IdToPiece(static_cast<int>(id - images));
}

Prompt ChatGlmTokenizer::build_prompt(const TokenIds& source) const {
  Prompt prompt;
  prompt.ids.reserve(source.size() + 2);
  prompt.ids.insert(prompt.ids.end(), source.begin(), source.end());
  prompt.ids.push_back(impl_->gmask.id);
  prompt.bidirectional_rows = prompt.length();
  prompt.ids.push_back(impl_->bos.id);
  return prompt;
}

TrainingPair ChatGlmTokenizer::build_pair(const TokenIds& source, const TokenIds& target) const {
  Prompt prompt = build_prompt(source);
  TrainingPair pair{std::move(prompt.ids), prompt.bidirectional_rows};
  pair.ids.insert(pair.ids.end(), target.begin(), target.end());
  pair.ids.push_back(impl_->eos.id);
  return pair;
}

std::string ChatGlmTokenizer::conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                                std::string_view question) const {
  std::string text;
  for (std::size_t i = 0; i < history.size(); ++i) {
    text += "[Round " + std::to_string(i) + "]\n问：" + history[i].first + "\n答：" + history[i].second + "\n";
  }
  return text + "[Round " + std::to_string(history.size()) + "]\n问：" + std::string(question) + "\n答：";
}

std::int64_t ChatGlmTokenizer::vocab_size() const { return impl_->size(); }
std::int64_t ChatGlmTokenizer::pad_id() const { return impl_->pad.id; }
std::int64_t ChatGlmTokenizer::eos_id() const { return impl_->eos.id; }
std::int64_t ChatGlmTokenizer::bos_id() const { return impl_->bos.id; }
std::int64_t ChatGlmTokenizer::gmask_id() const { return impl_->gmask.id; }
std::string ChatGlmTokenizer::clean_response(std::string text) const { return chatglm_text::clean_response(text); }
std::string ChatGlmTokenizer::fingerprint() const { return impl_->fingerprint; }

}  // namespace moelora::model
