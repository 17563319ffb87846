#include "base/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/file_testing.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// An npy file of any version around a header text.
std::string npy_bytes(const std::string& header, const std::string& data, int version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(version);
  bytes += '\0';
  const auto length = static_cast<uint32_t>(header.size());
  bytes.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  return bytes + header + data;
}

std::string header(const std::string& descr, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}

Result<Npy> parse(const std::string& bytes) {
  return Npy::parse(std::as_bytes(std::span(bytes)), "f.npy");
}

TEST(Npy, ReadsEveryVersion) {
  for (const int version : {1, 2, 3}) {
    const std::string bytes = npy_bytes(header("<i2", "(2, 1)"), "abcd", version);
    const Result<Npy> array = parse(bytes);
    ASSERT_TRUE(array.is_ok()) << error_of(array);
    EXPECT_EQ(array->dtype(), DType::kI16);
    EXPECT_THAT(array->shape(), ElementsAre(2, 1));
    EXPECT_EQ(std::memcmp(array->bytes().data(), "abcd", 4), 0);
  }
}

TEST(Npy, ReadsEveryDtype) {
  const std::pair<const char*, DType> known[] = {
      {"|b1", DType::kBool}, {"|u1", DType::kU8},  {"<u1", DType::kU8},  {"|i1", DType::kI8},
      {"<u2", DType::kU16},  {"<i2", DType::kI16}, {"<f2", DType::kF16}, {"<u4", DType::kU32},
      {"<i4", DType::kI32},  {"<f4", DType::kF32}, {"<u8", DType::kU64}, {"<i8", DType::kI64},
      {"<f8", DType::kF64}};
  for (const auto& [descr, dtype] : known) {
    const std::string bytes = npy_bytes(
        header(descr, "(3,)"), std::string(3 * static_cast<size_t>(dtype_size(dtype)), 'x'));
    const Result<Npy> array = parse(bytes);
    ASSERT_TRUE(array.is_ok()) << descr << ": " << error_of(array);
    EXPECT_EQ(array->dtype(), dtype) << descr;
  }
  EXPECT_THAT(error_of(parse(npy_bytes(header(">i4", "(1,)"), "abcd"))),
              HasSubstr("'>i4' is big-endian"));
  for (const char* descr : {"<c8", "|O", "<U4", "|S3", "|i4", "", "<", "i4", "<i16"}) {
    EXPECT_THAT(error_of(parse(npy_bytes(header(descr, "(1,)"), "abcd"))),
                HasSubstr("f.npy: npy header: dtype '" + std::string(descr) + "' cannot be read"));
  }
}

TEST(Npy, ReadsUnusualButValidHeaders) {
  const std::string scalar = npy_bytes(header("|u1", "()"), "x");
  EXPECT_THAT(parse(scalar).value().shape(), IsEmpty());
  const std::string reordered =
      npy_bytes("  {\"shape\": (1L,) , \"descr\":\"|u1\",\"fortran_order\":False}   \n", "x");
  EXPECT_THAT(parse(reordered).value().shape(), ElementsAre(1));
  const std::string empty = npy_bytes(header("<i8", "(9223372036854775807, 3, 0)"), "");
  EXPECT_TRUE(parse(empty).value().bytes().empty());
}

TEST(Npy, RefusesBrokenFrames) {
  const std::string good = npy_bytes(header("|u1", "(2,)"), "xy");
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(parse(good.substr(0, size)).is_ok()) << size;
  }
  EXPECT_THAT(error_of(parse("PK\x03\x04 zip")), HasSubstr("not an npy file"));
  EXPECT_THAT(error_of(parse(npy_bytes("{}", "", 4))), HasSubstr("npy version 4"));
  std::string long_header = npy_bytes(header("|u1", "(2,)"), "xy", 2);
  long_header[11] = '\x7f';
  EXPECT_THAT(error_of(parse(long_header)), HasSubstr("npy header length 213"));
  EXPECT_THAT(error_of(parse(good + "z")),
              HasSubstr("shape (2) of U8 needs 2 bytes, the file holds 3"));
}

TEST(Npy, RefusesBadHeaders) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "must start with '{'"},
      {"{", "dictionary"},
      {"{'descr'", "dictionary"},
      {"{'descr': '|u1'", "expected ','"},
      {"{'descr': '|u1',}", "needs descr, fortran_order and shape"},
      {"{'descr': '|u1', 'descr': '|u1'}", "key 'descr' twice"},
      {"{'color': 'red'}", "unknown key 'color'"},
      {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", "records"},
      {"{'descr': '|u1', 'fortran_order': True, 'shape': (1,)}", "ascontiguousarray"},
      {"{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}", "True or False"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': 1}", "must be a tuple"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", "whole numbers"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775808,)}", "below 2^63"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (1 2)}", "tuple of numbers"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (1,)} x", "text behind"},
  };
  for (const auto& [text, problem] : bad) {
    EXPECT_THAT(error_of(parse(npy_bytes(text, "x"))), HasSubstr(problem)) << text;
  }
  std::string many = "(";
  for (int i = 0; i < 65; ++i) many += "1,";
  EXPECT_THAT(error_of(parse(npy_bytes(header("|u1", many + ")"), "x"))),
              HasSubstr("more than 64 dimensions"));
}

TEST(Npy, RefusesShapesThatOverflow) {
  EXPECT_THAT(error_of(parse(npy_bytes(header("<i8", "(4294967296, 4294967296)"), ""))),
              HasSubstr("needs more than 2^63 bytes"));
  EXPECT_THAT(error_of(parse(npy_bytes(header("<i8", "(1152921504606846976,)"), ""))),
              HasSubstr("needs more than 2^63 bytes"));
}

TEST(Npy, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  const std::vector<int32_t> values = {1, -2, 3, 4, 5, 6};
  ASSERT_TRUE(write_npy(path, DType::kI32, {3, 2}, std::as_bytes(std::span(values))).is_ok());
  const Npy array = Npy::open(path).value();
  EXPECT_EQ(array.dtype(), DType::kI32);
  EXPECT_THAT(array.shape(), ElementsAre(3, 2));
  EXPECT_EQ(std::memcmp(array.bytes().data(), values.data(), sizeof(int32_t) * 6), 0);
  // The bytes of numpy.save: data at a multiple of 64, header ended by a line feed.
  const std::string bytes = contents_of(path);
  EXPECT_EQ(bytes.size(), 128 + 24u);
  EXPECT_EQ(bytes.substr(10, 59), "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }");
  EXPECT_EQ(bytes[127], '\n');
}

TEST(Npy, OneDimensionIsWrittenAsATuple) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  ASSERT_TRUE(write_npy(path, DType::kU8, {2}, std::as_bytes(std::span("xy", 2))).is_ok());
  EXPECT_THAT(contents_of(path), HasSubstr("'shape': (2,), }"));
  EXPECT_THAT(Npy::open(path).value().shape(), ElementsAre(2));
}

}  // namespace
}  // namespace wideep
