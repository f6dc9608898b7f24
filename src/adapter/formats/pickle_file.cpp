#include "adapter/formats/pickle_file.h"

#include <caffe2/serialize/inline_container.h>

#include <map>

#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

/// Writes the few opcodes (pickle protocol 2) that a dictionary of tensors needs.
class PickleWriter {
 public:
  PickleWriter& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  PickleWriter& global(std::string_view module, std::string_view name) {
    return raw("c").raw(module).raw("\n").raw(name).raw("\n");
  }
  PickleWriter& text(std::string_view value) {  // BINUNICODE
    return raw("X").little_endian(value.size(), 4).raw(value);
  }
  PickleWriter& integer(std::int64_t value) {  // LONG1 with eight bytes
    return raw("\x8a\x08").little_endian(static_cast<std::uint64_t>(value), 8);
  }
  PickleWriter& integers(at::IntArrayRef values) {  // MARK … TUPLE
    raw("(");
    for (const auto value : values) {
      integer(value);
    }
    return raw("t");
  }
  /// torch._utils._rebuild_tensor_v2(storage, 0, sizes, strides, False, OrderedDict())
  PickleWriter& tensor(const at::Tensor& value, const std::string& storage) {
    global("torch._utils", "_rebuild_tensor_v2").raw("(");
    raw("(").text("storage").global("torch", "FloatStorage").text(storage).text("cpu").integer(value.numel()).raw("tQ");
    integer(0).integers(value.sizes()).integers(value.strides());
    return raw("\x89").global("collections", "OrderedDict").raw(")R").raw("tR");
  }
  const std::string& bytes() const { return bytes_; }

 private:
  PickleWriter& little_endian(std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i) {
      bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    }
    return *this;
  }
  std::string bytes_;
};

}  // namespace

void save_pickle_file(const std::filesystem::path& path, const io::NamedTensors& tensors) {
  io::AtomicFile file(path);
  caffe2::serialize::PyTorchStreamWriter archive([&](const void* data, std::size_t size) {
    file.write(data, size);
    return size;
  });
  std::map<const void*, std::string> storages;
  PickleWriter pickle;
  pickle.raw("\x80\x02").raw("}(");
  for (const auto& [name, tensor] : tensors) {
    TORCH_INTERNAL_ASSERT(tensor.scalar_type() == at::kFloat && tensor.is_contiguous() && tensor.is_cpu());
    const auto [storage, fresh] = storages.emplace(tensor.const_data_ptr(), std::to_string(storages.size()));
    if (fresh) {
      archive.writeRecord("data/" + storage->second, tensor.const_data_ptr(), tensor.nbytes());
    }
    pickle.text(name).tensor(tensor, storage->second);
  }
  pickle.raw("u.");
  archive.writeRecord("data.pkl", pickle.bytes().data(), pickle.bytes().size());
  archive.writeEndOfFile();
  file.commit();
}

}  // namespace moelora
