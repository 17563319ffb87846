#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/file_testing.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(File, WritesAndReadsBack) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  const std::string contents("with\0zero\n", 10);
  ASSERT_TRUE(write_file(path, contents).is_ok());
  EXPECT_EQ(read_file(path).value(), contents);
  ASSERT_TRUE(write_file(path, "").is_ok());
  EXPECT_EQ(read_file(path).value(), "");
  EXPECT_THAT(list_directory(folder.path()).value(), ElementsAre("a"));
}

TEST(File, FullDiskKeepsTheOldFile) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "old");
  Status status;
  {
    const FileSizeLimit limit(1000);
    status = write_file(path, std::string(5000, 'x'));
  }
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_THAT(status.message(), HasSubstr(path + ": cannot write: "));
  EXPECT_EQ(contents_of(path), "old");
  EXPECT_THAT(list_directory(folder.path()).value(), ElementsAre("a"));
}

TEST(File, WritersThatAreDroppedLeaveNothing) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "old");
  {
    Result<FileWriter> writer = FileWriter::create(path);
    ASSERT_TRUE(writer.is_ok());
    FileWriter moved = std::move(writer).value();
    ASSERT_TRUE(moved.append("new").is_ok());
  }
  EXPECT_EQ(contents_of(path), "old");
  EXPECT_THAT(list_directory(folder.path()).value(), ElementsAre("a"));
}

TEST(File, PlacesThatCannotBeWritten) {
  const TemporaryFolder folder;
  const std::string file = folder.write("file", "old");
  EXPECT_EQ(write_file(folder / "missing/a", "x").code(), StatusCode::kNotFound);
  EXPECT_EQ(write_file(file + "/a", "x").code(), StatusCode::kIo);
  EXPECT_THAT(error_of(write_file(folder.path(), "x")), HasSubstr("is a folder"));
  EXPECT_EQ(make_directory(file + "/a").code(), StatusCode::kIo);
  EXPECT_EQ(contents_of(file), "old");
}

TEST(File, LinksAndDevicesStay) {
  const TemporaryFolder folder;
  const std::string target = folder.write("target", "old");
  const std::string link = folder / "link";
  std::filesystem::create_symlink(target, link);
  ASSERT_TRUE(write_file(link, "new").is_ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(contents_of(target), "new");

  ASSERT_TRUE(write_file("/dev/null", "x").is_ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  const Status full = write_file("/dev/full", "x");
  EXPECT_EQ(full.code(), StatusCode::kIo);
  EXPECT_THAT(full.message(), HasSubstr("No space left"));
}

TEST(File, ReadsOnlyRegularFilesUpToALimit) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "12345");
  EXPECT_EQ(read_file(folder / "b").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(error_of(read_file(folder.path())), folder.path() + ": not a regular file");
  EXPECT_EQ(error_of(read_file(path, 4)), path + ": 5 bytes, more than the 4 that are read");
  EXPECT_EQ(read_file(path, 5).value(), "12345");
}

TEST(File, Folders) {
  const TemporaryFolder folder;
  const std::string nested = folder / "a/b";
  ASSERT_TRUE(make_directory(nested).is_ok());
  ASSERT_TRUE(make_directory(nested).is_ok());
  EXPECT_TRUE(is_directory(nested));
  EXPECT_THAT(list_directory(nested).value(), IsEmpty());
  EXPECT_EQ(list_directory(folder / "c").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
}

TEST(MappedFile, MapsWholeFilesAndMoves) {
  const TemporaryFolder folder;
  MappedFile mapped = MappedFile::open(folder.write("a", "bytes")).value();
  const MappedFile moved = std::move(mapped);
  ASSERT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(moved.bytes().data(), "bytes", 5), 0);
  EXPECT_TRUE(MappedFile::open(folder.write("empty", "")).value().bytes().empty());
  EXPECT_EQ(MappedFile::open(folder / "none").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::open(folder.path()).status().code(), StatusCode::kInvalidInput);
}

TEST(MappedFile, BytesAnnouncedAreStillTheFiles) {
  const TemporaryFolder folder;
  const std::string contents(10000, 'x');
  const Result<MappedFile> file = MappedFile::open(folder.write("a", contents));
  ASSERT_TRUE(file.is_ok());
  will_read({});
  will_read(file->bytes().subspan(4097, 5000));  // from the middle of a page
  will_read(file->bytes());
  EXPECT_TRUE(std::ranges::all_of(file->bytes(), [](std::byte b) { return b == std::byte{'x'}; }));
}

}  // namespace
}  // namespace wideep
