#include "moelora/io/atomic_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "io/raises.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;

std::size_t entries_of(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

/// Files of this process may not grow beyond `bytes`: a write that fails for every user on every file system.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  sighandler_t handler_;
};

/// Runs `action` in a process of its own that ends without clean-up, as after kill -9.
template <typename Action>
void in_killed_process(Action&& action) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    action();
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(AtomicFile, AppearsOnlyAtCommit) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "a" / "b" / "file";
  AtomicFile file(path);
  file.write("one ");
  file.write("two");
  EXPECT_FALSE(fs::exists(path));
  file.commit();
  EXPECT_EQ(read_text_file(path), "one two");
  EXPECT_EQ(entries_of(path.parent_path()), 1u);
}

TEST(AtomicFile, LeavesNoTraceWithoutCommit) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder.path() / "file", "old");
  {
    AtomicFile file(folder.path() / "file");
    file.write("new");
  }
  EXPECT_EQ(read_text_file(folder.path() / "file"), "old");
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

TEST(AtomicFile, KeepsThePermissionsOfTheFileItReplaces) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder.path() / "file", "old");
  ASSERT_EQ(chmod((folder.path() / "file").c_str(), 0640), 0);
  write_file_atomically(folder.path() / "file", "new");
  struct stat status {};
  ASSERT_EQ(stat((folder.path() / "file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, ReplacesWhatALinkPointsToAndKeepsTheLink) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder.path() / "there" / "file", "old");
  fs::create_symlink("there/file", folder.path() / "link");
  write_file_atomically(folder.path() / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder.path() / "link"));
  EXPECT_EQ(read_text_file(folder.path() / "there" / "file"), "new");
}

TEST(AtomicFile, NeverReplacesADevice) {
  write_file_atomically("/dev/null", "nothing");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(AtomicFile, ReportsAFullDevice) {
  if (!fs::exists("/dev/full")) {
    GTEST_SKIP() << "this system has no /dev/full";
  }
  EXPECT_TRUE(raises([] { write_file_atomically("/dev/full", "text"); }, "cannot write /dev/full: No space left"));
}

TEST(AtomicFile, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  write_file_atomically(path, "old");
  {
    const FileSizeLimit limit(10000);
    const std::string large(20000, 'x');
    EXPECT_TRUE(raises([&] { write_file_atomically(path, large); }, "cannot write " + path.string()));
    EXPECT_TRUE(raises([&] { write_file_atomically(path, large); }, "nothing was overwritten"));
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

TEST(AtomicFile, AFullDiskLeavesTheOldFileAndNothingElse) {
  const testing::TemporaryFolder folder;
  if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=65536") != 0) {
    GTEST_SKIP() << "this user may not mount a small file system";
  }
  const fs::path path = folder.path() / "file";
  write_file_atomically(path, "old");
  const std::string large(100000, 'x');
  EXPECT_TRUE(raises([&] { write_file_atomically(path, large); }, "No space left on device"));
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(entries_of(folder.path()), 1u);
  EXPECT_EQ(umount(folder.path().c_str()), 0);
}

TEST(AtomicFile, SaysWhyAPlaceCannotBeWritten) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder.path() / "file", "old");
  EXPECT_TRUE(raises([&] { write_file_atomically(folder.path(), "x"); }, "found a folder"));
  EXPECT_TRUE(
      raises([&] { write_file_atomically(folder.path() / "file" / "below", "x"); }, "cannot create the folder"));
  EXPECT_TRUE(raises([&] { write_file_atomically("", "x"); }, "empty path"));
}

TEST(AtomicFile, AKilledWriterHarmsNothingAndTheNextOneCleansUp) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  write_file_atomically(path, "old");
  in_killed_process([&] {
    AtomicFile file(path);
    file.write("half");
    raise(SIGKILL);
  });
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(entries_of(folder.path()), 2u);  // what the dead process left
  write_file_atomically(path, "new");
  EXPECT_EQ(read_text_file(path), "new");
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

TEST(AtomicFile, ConcurrentWritersEachLeaveAWholeFile) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 20; ++i) {
        write_file_atomically(path, std::string(5000, static_cast<char>('a' + w)));
      }
    });
  }
  for (std::thread& writer : writers) {
    writer.join();
  }
  const std::string text = read_text_file(path);
  EXPECT_EQ(text, std::string(5000, text[0]));
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

void fill_and_commit(const fs::path& target, const std::string& text) {
  AtomicFolder folder(target);
  write_file_atomically(folder.path() / "inner" / "file", text);
  folder.commit();
}

TEST(AtomicFolder, ReplacesTheWholeFolderAtCommit) {
  const testing::TemporaryFolder folder;
  const fs::path target = folder.path() / "a" / "model";
  fill_and_commit(target, "one");
  std::ofstream(target / "stale") << "x";
  {
    AtomicFolder next(target);
    write_file_atomically(next.path() / "inner" / "file", "two");
    EXPECT_EQ(read_text_file(target / "inner" / "file"), "one");
    next.commit();
  }
  EXPECT_EQ(read_text_file(target / "inner" / "file"), "two");
  EXPECT_FALSE(fs::exists(target / "stale"));
  EXPECT_EQ(entries_of(target.parent_path()), 1u);
}

TEST(AtomicFolder, LeavesNoTraceWithoutCommit) {
  const testing::TemporaryFolder folder;
  fill_and_commit(folder.path() / "model/", "one");
  {
    AtomicFolder next(folder.path() / "model/");
    write_file_atomically(next.path() / "file", "two");
  }
  EXPECT_EQ(read_text_file(folder.path() / "model" / "inner" / "file"), "one");
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

TEST(AtomicFolder, WillNotReplaceAFile) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder.path() / "name", "a file");
  EXPECT_TRUE(raises([&] { AtomicFolder{folder.path() / "name"}; }, "a file has that name"));
}

TEST(AtomicFolder, AKilledWriterHarmsNothingAndTheNextOneCleansUp) {
  const testing::TemporaryFolder folder;
  fill_and_commit(folder.path() / "model", "one");
  in_killed_process([&] {
    AtomicFolder next(folder.path() / "model");
    write_file_atomically(next.path() / "file", "half");
    raise(SIGKILL);
  });
  EXPECT_EQ(entries_of(folder.path()), 2u);
  fill_and_commit(folder.path() / "model", "two");
  EXPECT_EQ(read_text_file(folder.path() / "model" / "inner" / "file"), "two");
  EXPECT_EQ(entries_of(folder.path()), 1u);
}

TEST(AtomicFolder, TheTargetIsNeverMissingWhileItIsReplaced) {
  const testing::TemporaryFolder folder;
  fs::create_directory(folder.path() / "x");
  fs::create_directory(folder.path() / "y");
  if (renameat2(AT_FDCWD, (folder.path() / "x").c_str(), AT_FDCWD, (folder.path() / "y").c_str(), RENAME_EXCHANGE) !=
      0) {
    GTEST_SKIP() << "this file system cannot swap two names in one go";
  }
  const fs::path target = folder.path() / "model";
  fill_and_commit(target, "0");
  std::atomic<bool> done{false};
  std::atomic<int> missing{0};
  std::thread watcher([&] {
    while (!done) {
      missing += access(target.c_str(), F_OK) != 0;
    }
  });
  for (int i = 0; i < 30; ++i) {
    fill_and_commit(target, std::to_string(i));
  }
  done = true;
  watcher.join();
  EXPECT_EQ(missing, 0);
}

}  // namespace
}  // namespace moelora::io
