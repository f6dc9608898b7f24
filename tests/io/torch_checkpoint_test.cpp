#include "moelora/io/torch_checkpoint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <limits>

#include "io/damage.h"
#include "io/raises.h"
#include "io/torch_archive.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

class TorchCheckpointTest : public ::testing::Test {
 protected:
  std::map<std::string, at::Tensor> load(const std::string& bytes) const {
    write_bytes(path(), bytes);
    return load_torch_checkpoint(path());
  }
  ::testing::AssertionResult refused(const std::string& bytes, const std::string& part) const {
    write_bytes(path(), bytes);
    return raises([&] { load_torch_checkpoint(path()); }, part);
  }
  /// A checkpoint whose pickle has this value for "w"; storage 0 holds the floats 0 … 11.
  std::string with_value(const std::string& value) const {
    return checkpoint_bytes(p_state_dict({{"w", value}}), {twelve_floats()});
  }
  std::string with_tensor(std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) const {
    return with_value(p_tensor(p_storage("FloatStorage", "0", 12), offset, shape, strides));
  }
  static std::string twelve_floats() {
    const at::Tensor values = at::arange(0, 12, at::kFloat);
    return {static_cast<const char*>(values.const_data_ptr()), values.nbytes()};
  }
  std::filesystem::path path() const { return folder_.path() / "f.bin"; }

 private:
  moelora::testing::TemporaryFolder folder_;
};

TEST_F(TorchCheckpointTest, EqualsTheSafetensorsFormOfTheSameAdapter) {
  const auto folder = moelora::testing::fixtures() / "moelora-tiny";
  const auto pickled = load_torch_checkpoint(folder / "adapter_model.bin");
  const auto reference = load_safetensors(folder / "adapter_model.safetensors");
  ASSERT_EQ(pickled.size(), reference.size());
  for (const auto& [name, tensor] : reference) {
    ASSERT_TRUE(pickled.contains(name)) << name;
    EXPECT_TRUE(at::equal(pickled.at(name), tensor)) << name;
    EXPECT_TRUE(pickled.at(name).is_contiguous()) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pickled.at(name).const_data_ptr()) % 64, 0u) << name;
  }
}

TEST_F(TorchCheckpointTest, ReadsOffsetsAndStrides) {
  const at::Tensor values = at::arange(0, 12, at::kFloat);
  EXPECT_TRUE(at::equal(load(with_tensor(0, {3, 4}, {4, 1})).at("w"), values.reshape({3, 4})));
  EXPECT_TRUE(at::equal(load(with_tensor(0, {4, 3}, {1, 4})).at("w"), values.reshape({3, 4}).t()));
  EXPECT_TRUE(at::equal(load(with_tensor(5, {7}, {1})).at("w"), values.slice(0, 5)));
  EXPECT_TRUE(at::equal(load(with_tensor(1, {2, 2}, {6, 2})).at("w"), values.as_strided({2, 2}, {6, 2}, 1)));
  EXPECT_TRUE(at::equal(load(with_tensor(0, {2, 3}, {0, 1})).at("w"), values.slice(0, 0, 3).expand({2, 3})));
  EXPECT_EQ(load(with_tensor(11, {}, {})).at("w").item<float>(), 11.0f);
  EXPECT_EQ(load(with_tensor(0, {0, 5}, {5, 1})).at("w").numel(), 0);
  EXPECT_TRUE(load(with_tensor(0, {4, 3}, {1, 4})).at("w").is_contiguous());
}

TEST_F(TorchCheckpointTest, ReadsEveryStorageType) {
  const std::vector<std::pair<const char*, at::ScalarType>> types{
      {"DoubleStorage", at::kDouble},     {"FloatStorage", at::kFloat}, {"HalfStorage", at::kHalf},
      {"BFloat16Storage", at::kBFloat16}, {"LongStorage", at::kLong},   {"IntStorage", at::kInt},
      {"ShortStorage", at::kShort},       {"CharStorage", at::kChar},   {"ByteStorage", at::kByte},
      {"BoolStorage", at::kBool}};
  for (const auto& [type, dtype] : types) {
    const at::Tensor values = at::arange(0, 6, at::kInt).to(dtype);
    const std::string storage(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
    const auto read =
        load(checkpoint_bytes(p_state_dict({{"w", p_tensor(p_storage(type, "0", 6), 0, {2, 3}, {3, 1})}}), {storage}));
    EXPECT_EQ(read.at("w").scalar_type(), dtype) << type;
    EXPECT_TRUE(at::equal(read.at("w"), values.reshape({2, 3}))) << type;
  }
}

TEST_F(TorchCheckpointTest, TensorsThatShareAStorageAreEachCopied) {
  const std::string tensor = p_tensor(p_storage("FloatStorage", "0", 12), 0, {12}, {1});
  const auto read = load(checkpoint_bytes(p_state_dict({{"a", tensor}, {"b", tensor}}), {twelve_floats()}));
  EXPECT_TRUE(at::equal(read.at("a"), read.at("b")));
  EXPECT_NE(read.at("a").const_data_ptr(), read.at("b").const_data_ptr());
}

TEST_F(TorchCheckpointTest, ReadsParametersMetadataAndPlainDicts) {
  const std::string tensor = p_tensor(p_storage("FloatStorage", "0", 12), 0, {12}, {1});
  const std::string parameter =
      p_global("torch._utils", "_rebuild_parameter") + p_tuple({tensor, "\x88", p_ordered_dict()}) + "R";
  EXPECT_EQ(load(with_value(parameter)).at("w").numel(), 12);
  // An attribute {'_metadata': OrderedDict()} set on the state dict.
  std::string pickle = p_state_dict({{"w", tensor}});
  pickle.back() = '}';
  pickle += p_text("_metadata") + p_ordered_dict() + "sb.";
  EXPECT_EQ(load(checkpoint_bytes(pickle, {twelve_floats()})).size(), 1u);
  EXPECT_EQ(
      load(checkpoint_bytes("\x80\x02}(" + p_text("w") + tensor + p_text("none") + "Nu.", {twelve_floats()})).size(),
      1u);
  EXPECT_TRUE(load(checkpoint_bytes("\x80\x02}.")).empty());
}

TEST_F(TorchCheckpointTest, ReadsProtocolFour) {
  const auto global = [](const std::string& module, const std::string& name) {
    return "\x8c" + little_endian(module.size(), 1) + module + "\x94" + "\x8c" + little_endian(name.size(), 1) + name +
           "\x94\x93\x94";
  };
  const std::string storage = "(\x8c\x07storage" + global("torch", "FloatStorage") +
                              "\x8c\x01"
                              "0\x8c\x03"
                              "cpuK\x0ct\x94Q";
  const std::string tensor =
      global("torch._utils", "_rebuild_tensor_v2") + "(" + storage + "K\0K\x03K\x04\x86K\x04K\x01\x86\x89}t\x94R\x94";
  std::string fixed = tensor;
  // "K\0" ends a C string early: put the two bytes of the offset in by hand.
  fixed.replace(fixed.find("QK") + 1, 1, std::string("K\0K\x03K\x04\x86K\x04K\x01\x86\x89}t\x94R\x94", 18));
  const std::string pickle = std::string("\x80\x04\x95\0\0\0\0\0\0\0\0", 11) + "}\x94\x8c\x01w" + fixed + "s.";
  EXPECT_TRUE(at::equal(load(checkpoint_bytes(pickle, {twelve_floats()})).at("w"),
                        at::arange(0, 12, at::kFloat).reshape({3, 4})));
}

TEST_F(TorchCheckpointTest, NeverCallsWhatAFileNames) {
  const std::string command = "touch " + path().string() + ".owned";
  const std::vector<std::pair<std::string, std::string>> functions{{"os", "system"},
                                                                   {"posix", "system"},
                                                                   {"builtins", "eval"},
                                                                   {"builtins", "exec"},
                                                                   {"__builtin__", "eval"},
                                                                   {"subprocess", "run"},
                                                                   {"torch", "load"},
                                                                   {"torch.storage", "UntypedStorage"},
                                                                   {"torch._utils", "_rebuild_sparse_tensor"},
                                                                   {"collections", "namedtuple"},
                                                                   {"torch", "OrderedDict"}};
  for (const auto& [module, name] : functions) {
    const std::string call = p_tuple({p_text(command)}) + "R";
    const std::string expected = "refuses to call " + module + "." + name;
    EXPECT_TRUE(refused(with_value(p_global(module, name) + call), expected));
    EXPECT_TRUE(refused(checkpoint_bytes("\x80\x02" + p_global(module, name) + call + "."), expected));
    EXPECT_TRUE(refused(with_value(p_text(module) + p_text(name) + "\x93" + call), expected));  // STACK_GLOBAL
    EXPECT_TRUE(refused(with_value("(" + p_text(command) + "i" + module + "\n" + name + "\n"), expected));  // INST
  }
  EXPECT_FALSE(std::filesystem::exists(path().string() + ".owned"));
}

TEST_F(TorchCheckpointTest, RefusesCallsOfAllowedNamesInOtherWays) {
  EXPECT_TRUE(refused(with_value(p_global("torch", "FloatStorage") + ")R"), "refuses to call torch.FloatStorage"));
  EXPECT_TRUE(refused(with_value(p_global("collections", "OrderedDict") + ")\x81"), "(NEWOBJ)"));
  EXPECT_TRUE(refused(with_value("(" + p_global("collections", "OrderedDict") + "o"), "(OBJ)"));
  EXPECT_TRUE(refused(with_value(p_global("collections", "OrderedDict") + p_ints({1}) + "R"), "made from arguments"));
  EXPECT_TRUE(refused(with_value(p_global("torch._utils", "_rebuild_parameter") + ")R"), "without a tensor"));
  EXPECT_TRUE(refused(with_value(p_text("x") + ")R"), "no function"));
  EXPECT_TRUE(refused(with_value("\x82\x01"), "(EXT1)"));
  EXPECT_TRUE(refused(with_value("P0\n"), "(PERSID)"));
  EXPECT_TRUE(refused(with_value("\xff"), "opcode 255"));
  const std::string tensor = p_tensor(p_storage("FloatStorage", "0", 12), 0, {12}, {1});
  EXPECT_TRUE(refused(with_value(tensor + "}b"), "attributes of something"));
}

TEST_F(TorchCheckpointTest, RefusesTensorsThatLeaveTheirStorage) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  EXPECT_TRUE(refused(with_tensor(0, {13}, {1}), "its storage has 48"));
  EXPECT_TRUE(refused(with_tensor(1, {12}, {1}), "beyond the end"));
  EXPECT_TRUE(refused(with_tensor(0, {3, 4}, {5, 1}), "beyond the end"));
  EXPECT_TRUE(refused(with_tensor(kHuge, {1}, {1}), "beyond the end"));
  EXPECT_TRUE(refused(with_tensor(kHuge, {2}, {kHuge}), "beyond the end"));
  EXPECT_TRUE(refused(with_tensor(0, {3, 3}, {kHuge / 2 + 1, kHuge / 2 + 1}), "beyond the end"));
  EXPECT_TRUE(refused(with_tensor(0, {kHuge}, {0}), "too many dimensions or elements"));
  EXPECT_TRUE(refused(with_tensor(0, {1 << 30, 1 << 30, 16}, {0, 0, 0}), "too many dimensions or elements"));
  EXPECT_TRUE(refused(with_tensor(0, {100}, {0}), "contiguous() on expanded"));
  EXPECT_TRUE(refused(with_tensor(-1, {1}, {1}), "damaged"));
  EXPECT_TRUE(refused(with_tensor(0, {-1}, {1}), "whole numbers from 0"));
  EXPECT_TRUE(refused(with_tensor(4, {2}, {-1}), "whole numbers from 0"));
  EXPECT_TRUE(refused(with_tensor(0, {3, 4}, {1}), "2 sizes but 1 strides"));
  EXPECT_TRUE(refused(with_tensor(0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)),
                      "too many dimensions"));
}

TEST_F(TorchCheckpointTest, RefusesStoragesThatDoNotFit) {
  const auto with_storage = [&](const std::string& storage) { return with_value(p_tensor(storage, 0, {1}, {1})); };
  EXPECT_TRUE(refused(with_storage(p_storage("FloatStorage", "1", 12)), "data/1 is not in the archive"));
  EXPECT_TRUE(refused(with_storage(p_storage("FloatStorage", "../byteorder", 1)), "is not in the archive"));
  EXPECT_TRUE(refused(with_storage(p_storage("FloatStorage", "0", 11)), "data/0 has 48 bytes"));
  EXPECT_TRUE(refused(with_storage(p_storage("DoubleStorage", "0", 12)), "data/0 has 48 bytes"));
  EXPECT_TRUE(refused(with_storage(p_storage("FloatStorage", "0", -1)), "data/0 has 48 bytes"));
  EXPECT_TRUE(refused(with_storage(p_storage("FloatStorage", "0", std::int64_t{1} << 62)), "data/0 has 48 bytes"));
  EXPECT_TRUE(refused(with_storage(p_text("none")), "description of its storage"));
  EXPECT_TRUE(refused(with_storage(p_tuple({}) + "Q"), "description of its storage"));
  const std::string no_type =
      p_tuple({p_text("storage"), p_global("collections", "OrderedDict"), p_text("0"), p_text("cpu"), p_int(12)});
  EXPECT_TRUE(refused(with_storage(no_type + "Q"), "OrderedDict is no storage type"));
}

TEST_F(TorchCheckpointTest, RefusesBrokenPickles) {
  const auto pickle = [](const std::string& body) { return checkpoint_bytes("\x80\x02" + body); };
  EXPECT_TRUE(refused(pickle("."), "other than one value"));
  EXPECT_TRUE(refused(pickle("}"), "cut off"));
  EXPECT_TRUE(refused(pickle("}}."), "other than one value"));
  EXPECT_TRUE(refused(pickle("}(."), "other than one value"));
  EXPECT_TRUE(refused(pickle("t."), "a mark is missing"));
  EXPECT_TRUE(refused(pickle("}(a."), "a value is missing"));  // nothing below a mark can be reached
  EXPECT_TRUE(refused(pickle("h\x05."), "unknown memo entry"));
  EXPECT_TRUE(refused(pickle("j\xff\xff\xff\xff."), "unknown memo entry"));
  EXPECT_TRUE(refused(pickle("X\xff\xff\xff\xff."), "cut off"));
  EXPECT_TRUE(refused(pickle("\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), "cut off"));
  EXPECT_TRUE(refused(pickle("cos"), "cut off"));
  EXPECT_TRUE(refused(pickle("\x8a\x09"
                             "123456789."),
                      "more than 64 bits"));
  EXPECT_TRUE(refused(pickle("}Na."), "no list"));
  EXPECT_TRUE(refused(pickle("]NNs."), "no dict"));
  EXPECT_TRUE(refused(pickle("}(Nu."), "a key without a value"));
  EXPECT_TRUE(refused(pickle("NQ."), "storage without a description"));
  EXPECT_TRUE(refused(checkpoint_bytes("\x80\x7f}."), "newer than 5"));
}

TEST_F(TorchCheckpointTest, HugeMemoIndexesTakeNoMemory) {
  EXPECT_TRUE(load(checkpoint_bytes("\x80\x02}r\xff\xff\xff\xff.")).empty());
}

TEST_F(TorchCheckpointTest, SurvivesListsThatContainThemselvesAndDeepNesting) {
  EXPECT_TRUE(refused(with_value("]q\x07h\x07"
                                 "a"),
                      "found \"w\" of type list"));
  EXPECT_TRUE(refused(checkpoint_bytes("\x80\x02)" + std::string(1000000, '\x85') + "."), "found a tuple"));
  EXPECT_TRUE(refused(checkpoint_bytes("\x80\x02" + std::string(1000000, '(')), "cut off"));
}

TEST_F(TorchCheckpointTest, RefusesWhatIsNoStateDict) {
  EXPECT_TRUE(refused(checkpoint_bytes("\x80\x02K\x01."), "expected a state dict (names to tensors), found a int"));
  EXPECT_TRUE(refused(with_value("K\x01"), "found \"w\" of type int"));
  EXPECT_TRUE(refused(with_value("}"), "found \"w\" of type dict"));
  EXPECT_TRUE(refused(with_value(p_text("x")), "found \"w\" of type str"));
  EXPECT_TRUE(refused(checkpoint_bytes("\x80\x02}K\x01Ns."), "expected names as keys"));
  const std::string tensor = p_tensor(p_storage("FloatStorage", "0", 12), 0, {12}, {1});
  EXPECT_TRUE(refused(checkpoint_bytes(p_state_dict({{"w", tensor}, {"w", tensor}}), {twelve_floats()}),
                      "\"w\" is there twice"));
}

TEST_F(TorchCheckpointTest, RefusesOtherKindsOfFiles) {
  EXPECT_TRUE(refused("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", "torch.save before 1.6"));
  EXPECT_TRUE(refused("hello", "is no checkpoint of torch.save"));
  EXPECT_TRUE(refused("", "is empty"));
  EXPECT_TRUE(refused("version https://git-lfs.github.com/spec/v1\n", "Git LFS"));
  EXPECT_TRUE(refused(zip_archive({{"a/readme", "x"}}), "without data.pkl"));
  EXPECT_TRUE(refused(zip_archive({{"a/data.pkl", "x"}}, 8), "is compressed"));
  EXPECT_TRUE(refused(zip_archive({{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "big"}}), "big-endian"));
  EXPECT_TRUE(refused(zip_archive({{"a/data.pkl", "\x80\x02}."}, {"a/data.pkl", "\x80\x02}."}}), "listed twice"));
}

TEST_F(TorchCheckpointTest, EveryCutOfAFileIsAnError) {
  const std::string whole = with_tensor(0, {3, 4}, {4, 1});
  ASSERT_EQ(load(whole).size(), 1u);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(refused(whole.substr(0, size), "f.bin")) << size;
  }
}

TEST_F(TorchCheckpointTest, CutsOfAFileOfTorchSaveAreErrors) {
  const auto source = moelora::testing::fixtures() / "moelora-tiny" / "adapter_model.bin";
  const std::string whole = read_text_file(source);
  for (std::size_t i = 0; i < 200; ++i) {
    const std::size_t size = i < 100 ? whole.size() - 1 - i : whole.size() * (i - 100) / 100;
    EXPECT_TRUE(refused(whole.substr(0, size), "f.bin")) << size;
  }
}

TEST_F(TorchCheckpointTest, EveryFlippedBitLoadsOrIsAnError) {
  load(with_tensor(0, {4, 3}, {1, 4}));
  const DamageReport report =
      flip_every_bit(path(), 0, std::filesystem::file_size(path()), [&] { load_torch_checkpoint(path()); });
  EXPECT_GT(report.refused, 0);
  EXPECT_GT(report.loaded, 0);
}

TEST_F(TorchCheckpointTest, FlippedBitsInAFileOfTorchSaveLoadOrAreErrors) {
  std::filesystem::copy_file(moelora::testing::fixtures() / "ptuning-tiny" / "pytorch_model.bin", path());
  const std::size_t size = std::filesystem::file_size(path());
  const auto load_again = [&] { load_torch_checkpoint(path()); };
  const DamageReport head = flip_every_bit(path(), 0, 600, load_again);
  const DamageReport tail = flip_every_bit(path(), size - 1200, size, load_again);
  EXPECT_GT(head.refused, 0);
  EXPECT_GT(tail.refused, 0);
}

}  // namespace
}  // namespace moelora::io
