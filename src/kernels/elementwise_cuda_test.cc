#include "kernels/elementwise.h"

#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

// Empty, odd, and with the vectors of 16 bytes that gaps of 8 elements leave aligned.
struct Shape {
  int rows;
  int columns;
  int gap;
};
constexpr Shape kShapes[] = {{0, 8, 0},    {1, 1, 0},   {3, 16, 8},    {7, 37, 3},
                             {65, 200, 4}, {9, 264, 1}, {130, 520, 16}};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

class ElementwiseCudaTest : public CudaTest {
 protected:
  // body(shape, dtype of x, dtype of y) for all of them.
  template <typename Body>
  void for_each_case(const Body& body) {
    for (const Shape& shape : kShapes) {
      for (const DType x : kDTypes) {
        for (const DType y : kDTypes) {
          SCOPED_TRACE(testing::Message()
                       << shape.rows << " x " << shape.columns << ", gap " << shape.gap << ", "
                       << dtype_name(x) << " to " << dtype_name(y));
          body(shape, x, y);
        }
      }
    }
  }
};

TEST_F(ElementwiseCudaTest, EmbeddingCopiesRows) {
  for_each_case([&](const Shape& shape, DType table_dtype, DType dtype) {
    const TestMatrix table =
        rounded(random_matrix(random_, 50, shape.columns, shape.gap), table_dtype);
    std::vector<int> ids(shape.rows);
    for (int& id : ids) id = between(random_, -1, 49);
    TestMatrix expected(shape.rows, shape.columns, shape.gap);
    embedding(cpu(), table.view(), ids, expected.view());
    const DeviceMatrix y(TestMatrix(shape.rows, shape.columns, shape.gap), dtype);
    const DeviceMatrix device_table(table, table_dtype);
    const DeviceVector<int> device_ids(ids);
    embedding(stream(), device_table.view(), device_ids.span(), y.view());
    EXPECT_EQ(y.host().bits(), rounded(expected, dtype).bits());
    expect_gaps_untouched(y.host());
  });
}

TEST_F(ElementwiseCudaTest, SiluMulMatchesTheCpu) {
  for_each_case([&](const Shape& shape, DType x_dtype, DType dtype) {
    const TestMatrix x =
        rounded(random_matrix(random_, shape.rows, 2 * shape.columns, shape.gap, 10), x_dtype);
    TestMatrix expected(shape.rows, shape.columns, shape.gap);
    silu_mul(cpu(), x.view(), expected.view());
    const DeviceMatrix y(TestMatrix(shape.rows, shape.columns, shape.gap), dtype);
    const DeviceMatrix device_x(x, x_dtype);
    silu_mul(stream(), device_x.view(), y.view());
    expect_close(y.host(), expected, tolerance_of(dtype));
    expect_gaps_untouched(y.host());
  });
}

TEST_F(ElementwiseCudaTest, SiluMulLeavesRowsThatAreNotInUse) {
  const TestMatrix x = random_matrix(random_, 40, 48, 0, 10);
  for (const int num_rows : {0, 17, 40}) {
    TestMatrix expected(40, 24);
    silu_mul(cpu(), x.view(), expected.view(), &num_rows);
    const DeviceVector<int> device_rows(std::vector<int>{num_rows});
    const DeviceMatrix y(TestMatrix(40, 24), DType::kF32);
    const DeviceMatrix device_x(x, DType::kF32);
    silu_mul(stream(), device_x.view(), y.view(), device_rows.data());
    expect_close(y.host(), expected, tolerance_of(DType::kF32));
  }
}

TEST_F(ElementwiseCudaTest, SiluMulOfExtremes) {
  TestMatrix x(1, 6);
  const float values[] = {-1000, 1000, NAN, 2, 3, 4};
  std::copy_n(values, 6, x.row(0));
  const DeviceMatrix y(TestMatrix(1, 3), DType::kF32);
  const DeviceMatrix device_x(x, DType::kF32);
  silu_mul(stream(), device_x.view(), y.view());
  const TestMatrix result = y.host();
  EXPECT_EQ(result.at(0, 0), 0);
  EXPECT_EQ(result.at(0, 1), 3000);
  EXPECT_TRUE(std::isnan(result.at(0, 2)));
}

// One rounding each: the same bits as the CPU's, rounded to y's type.
TEST_F(ElementwiseCudaTest, AddBiasAndScaleGiveTheCpusBits) {
  for_each_case([&](const Shape& shape, DType x_dtype, DType dtype) {
    const TestMatrix x =
        rounded(random_matrix(random_, shape.rows, shape.columns, shape.gap), x_dtype);
    const TestMatrix before =
        rounded(random_matrix(random_, shape.rows, shape.columns, shape.gap), dtype);
    const std::vector<float> bias = random_floats(random_, shape.columns);
    const std::vector<float> factors = random_floats(random_, shape.rows);
    TestMatrix sum = before;
    TestMatrix biased = before;
    TestMatrix scaled = before;
    add(cpu(), x.view(), sum.view());
    add_bias(cpu(), bias.data(), biased.view());
    scale_rows(cpu(), factors, scaled.view());
    const DeviceMatrix device_x(x, x_dtype);
    const DeviceVector<float> device_bias(bias);
    const DeviceVector<float> device_factors(factors);
    const DeviceMatrix device_sum(before, dtype);
    const DeviceMatrix device_biased(before, dtype);
    const DeviceMatrix device_scaled(before, dtype);
    add(stream(), device_x.view(), device_sum.view());
    add_bias(stream(), device_bias.data(), device_biased.view());
    scale_rows(stream(), device_factors.span(), device_scaled.view());
    EXPECT_EQ(device_sum.host().bits(), rounded(sum, dtype).bits());
    EXPECT_EQ(device_biased.host().bits(), rounded(biased, dtype).bits());
    EXPECT_EQ(device_scaled.host().bits(), rounded(scaled, dtype).bits());
    expect_gaps_untouched(device_sum.host());
    expect_gaps_untouched(device_biased.host());
    expect_gaps_untouched(device_scaled.host());
  });
}

}  // namespace
}  // namespace wideep::kernels
