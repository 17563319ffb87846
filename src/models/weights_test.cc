#include "models/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <numeric>

#include "base/thread_pool.h"

namespace wideep::models {
namespace {

using ::testing::ElementsAre;

// Element (row, column) of matrix "a" is 1000 a + 10 row + column, small integers that bf16 holds;
// vectors count from their name. "missing" is not there.
class FakeSource : public WeightSource {
 public:
  FakeSource() : WeightSource({}) {}

  Result<int64_t> num_bytes(const MatrixRequest& request) const override {
    return request.num_elements();
  }
  Result<int64_t> num_bytes(const VectorRequest& request) const override {
    return request.end - request.begin;
  }

 private:
  static float base(const std::string& name) { return static_cast<float>(name[0] - 'a') * 64; }

  static Status fill(const MatrixRequest& request, const std::function<void(float)>& put) {
    if (request.name == "missing") return Status::not_found("missing: is not there");
    for (int64_t row = request.row_begin; row < request.row_end; ++row) {
      for (int64_t column = request.column_begin; column < request.column_end; ++column) {
        put(base(request.name) + static_cast<float>(row % 8 * 8 + column));
      }
    }
    return Status::ok();
  }
  Status do_read(const MatrixRequest& request, std::span<float> out) const override {
    float* to = out.data();
    return fill(request, [&](float value) { *to++ = value; });
  }
  Status do_read(const MatrixRequest& request, std::span<uint16_t> out) const override {
    uint16_t* to = out.data();
    return fill(request, [&](float value) {
      *to++ = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    });
  }
  Status do_read_vector(const VectorRequest& request, std::span<float> out) const override {
    std::iota(out.begin(), out.end(), base(request.name) + static_cast<float>(request.begin));
    return Status::ok();
  }
};

MatrixRequest rows(const std::string& name, int64_t begin, int64_t end, int64_t columns) {
  MatrixRequest request;
  request.name = name;
  request.row_begin = begin;
  request.row_end = end;
  request.column_end = columns;
  return request;
}

// The packed weight's rows, read back by multiplying with the unit vectors.
std::vector<float> unpack(Stream& stream, const kernels::PackedWeight& weight) {
  std::vector<float> units(static_cast<size_t>(weight.in_features) * weight.in_features);
  for (int i = 0; i < weight.in_features; ++i) units[i * weight.in_features + i] = 1;
  std::vector<float> transposed(static_cast<size_t>(weight.in_features) * weight.out_features);
  kernels::linear(stream,
                  matrix_view(std::as_const(units).data(), weight.in_features, weight.in_features),
                  weight, matrix_view(transposed.data(), weight.in_features, weight.out_features));
  std::vector<float> result;
  for (int o = 0; o < weight.out_features; ++o) {
    for (int i = 0; i < weight.in_features; ++i) {
      result.push_back(transposed[i * weight.out_features + o]);
    }
  }
  return result;
}

TEST(ShareOf, CoversEverythingOnce) {
  for (const int total : {0, 1, 7, 64, 256}) {
    for (const int parts : {1, 2, 3, 9, 72}) {
      int next = 0;
      for (int part = 0; part < parts; ++part) {
        const Share share = share_of(total, parts, part);
        EXPECT_EQ(share.begin, next);
        EXPECT_GE(share.size(), total / parts);
        EXPECT_LE(share.size(), total / parts + 1);
        next = share.end;
      }
      EXPECT_EQ(next, total);
    }
  }
}

class WeightStoreTest : public testing::TestWithParam<DType> {
 protected:
  ThreadPool pool_{2};
  Stream stream_{pool_};
  FakeSource source_;
  WeightStore store_;
};

TEST_P(WeightStoreTest, StacksParts) {
  const auto& weight = store_.add_linear({rows("a", 2, 4, 3), rows("b", 7, 8, 3)}, GetParam());
  ASSERT_TRUE(store_.load(stream_, source_).is_ok());
  EXPECT_EQ(weight.out_features, 3);
  EXPECT_EQ(weight.in_features, 3);
  EXPECT_THAT(unpack(stream_, weight), ElementsAre(16, 17, 18, 24, 25, 26, 120, 121, 122));
}

TEST_P(WeightStoreTest, PacksRowsAcrossJobs) {
  // More rows than a job takes, and parts that end within one.
  const auto& weight = store_.add_linear(
      {rows("a", 0, 301, 5), rows("b", 3, 500, 5), rows("a", 9, 10, 5)}, GetParam());
  ASSERT_TRUE(store_.load(stream_, source_).is_ok());
  const std::vector<float> values = unpack(stream_, weight);
  ASSERT_EQ(values.size(), 799U * 5);
  for (int row = 0; row < 799; ++row) {
    const int source_row = row < 301 ? row : row < 798 ? row - 301 + 3 : 9;
    const float base = row >= 301 && row < 798 ? 64 : 0;
    for (int column = 0; column < 5; ++column) {
      ASSERT_EQ(values[row * 5 + column], base + static_cast<float>(source_row % 8 * 8 + column));
    }
  }
}

TEST_P(WeightStoreTest, KeepsGroupsSideBySide) {
  const auto& group =
      store_.add_linear_group({{rows("a", 0, 2, 4)}, {rows("b", 0, 2, 4)}}, GetParam());
  ASSERT_TRUE(store_.load(stream_, source_).is_ok());
  ASSERT_EQ(group.size(), 2U);
  EXPECT_EQ(group[1].data - group[0].data, kernels::packed_weight_bytes(2, 4, GetParam()));
  EXPECT_THAT(unpack(stream_, group[1]), ElementsAre(64, 65, 66, 67, 72, 73, 74, 75));
}

TEST_P(WeightStoreTest, ReadsTablesAndVectors) {
  const ConstMatrixView& table = store_.add_table(rows("a", 0, 2, 3), GetParam());
  const std::span<const float>& vector = store_.add_vector({"b", 2, 5});
  ASSERT_TRUE(store_.load(stream_, source_).is_ok());
  if (GetParam() == DType::kF32) {
    EXPECT_EQ(table.row<float>(1)[2], 10);
  } else {
    EXPECT_EQ(table.row<uint16_t>(1)[2], 0x4120) << "10 in bf16";
  }
  EXPECT_THAT(vector, ElementsAre(66, 67, 68));
  EXPECT_GE(store_.bytes(), 6 * dtype_size(GetParam()) + 12);
}

TEST_P(WeightStoreTest, GivesTheFirstError) {
  store_.add_linear({rows("a", 0, 2, 3)}, GetParam());
  store_.add_linear({rows("missing", 0, 2, 3)}, GetParam());
  const Status status = store_.load(stream_, source_);
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), testing::HasSubstr("missing"));
}

INSTANTIATE_TEST_SUITE_P(DTypes, WeightStoreTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

}  // namespace
}  // namespace wideep::models
