// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev Drives two sessions at random, honest and dishonest calls alike, and keeps books of its own.
contract Driver {
    HyperGPULedger public immutable ledger;
    bytes32[2] public ids;
    address[3] public accounts = [address(0xA1), address(0xB0), address(0xCA)];
    mapping(bytes32 id => mapping(address => uint256)) public earned;
    mapping(bytes32 id => mapping(address => uint256)) public received;
    mapping(bytes32 id => uint64) public commits;
    mapping(bytes32 id => uint256) public given;
    mapping(bytes32 id => uint256) public refunded;
    bool public cheated;

    constructor(HyperGPULedger ledger_) payable {
        ledger = ledger_;
        for (uint256 i = 0; i < 2; ++i) {
            ids[i] = ledger.open{value: 1 ether}(bytes32(i));
            given[ids[i]] = 1 ether;
        }
    }

    receive() external payable {}

    function commit(uint256 which, uint256 who, uint128 amount) external {
        bytes32 id = ids[which % 2];
        HyperGPULedger.Session memory s = ledger.session(id);
        amount = uint128(amount % (uint256(s.pool - s.owed) + 1));
        earned[id][accounts[who % 3]] += amount;
        try ledger.commitRound(id, s.next, bytes32(which), 0, _root(id), s.owed + amount) {
            ++commits[id];
        } catch {
            earned[id][accounts[who % 3]] -= amount;
        }
    }

    function commitTooMuch(uint256 which, uint128 excess, uint64 round) external {
        bytes32 id = ids[which % 2];
        HyperGPULedger.Session memory s = ledger.session(id);
        uint128 owed = s.pool + 1 + excess % 1 ether;
        try ledger.commitRound(id, s.next, 0, 0, s.rewards, owed) {
            cheated = true;
        } catch {}
        if (round == s.next) return;
        try ledger.commitRound(id, round, 0, 0, s.rewards, s.owed) {
            cheated = true;
        } catch {}
    }

    function commitAsStranger(uint256 which, address stranger) external {
        bytes32 id = ids[which % 2];
        HyperGPULedger.Session memory s = ledger.session(id);
        if (stranger == address(this)) return;
        vm.prank(stranger);
        try ledger.commitRound(id, s.next, 0, 0, s.rewards, s.owed) {
            cheated = true;
        } catch {}
    }

    function claim(uint256 which, uint256 who) external {
        bytes32 id = ids[which % 2];
        address account = accounts[who % 3];
        uint256 balance = account.balance;
        try ledger.claim(id, account, earned[id][account], _proof(id, who % 3)) returns (uint256 amount) {
            received[id][account] += amount;
            if (account.balance != balance + amount) cheated = true;
        } catch {}
    }

    function claimMore(uint256 which, uint256 who, uint96 excess) external {
        bytes32 id = ids[which % 2];
        address account = accounts[who % 3];
        try ledger.claim(id, account, earned[id][account] + 1 + excess, _proof(id, who % 3)) {
            cheated = true;
        } catch {}
    }

    function fund(uint256 which, uint96 amount) external {
        bytes32 id = ids[which % 2];
        uint256 value = amount % 1 ether;
        vm.deal(address(this), address(this).balance + value);
        try ledger.fund{value: value}(id) {
            given[id] += value;
        } catch {}
    }

    function fundTo(uint256 which, uint96 amount, uint96 excess) external {
        bytes32 id = ids[which % 2];
        uint128 before = ledger.session(id).pool;
        uint128 pool = before + amount % 1 ether;
        uint256 value = uint256(amount % 1 ether) + excess % 1 ether;
        vm.deal(address(this), address(this).balance + value);
        try ledger.fundTo{value: value}(id, pool) {
            if (ledger.session(id).pool != pool) cheated = true;
            given[id] += pool - before;
        } catch {}
    }

    function pause(uint256 which, bool paused) external {
        try ledger.setPaused(ids[which % 2], paused) {} catch {}
    }

    function refund(uint256 which, uint32 later) external {
        bytes32 id = ids[which % 2];
        if (later % 8 == 0) vm.warp(block.timestamp + 90 days);
        try ledger.refund(id) returns (uint256 amount) {
            refunded[id] += amount;
        } catch {}
    }

    function _leaf(bytes32 id, uint256 who) private view returns (bytes32) {
        return Trees.rewardLeaf(id, accounts[who], earned[id][accounts[who]]);
    }

    function _root(bytes32 id) private view returns (bytes32) {
        return Trees.parent(Trees.parent(_leaf(id, 0), _leaf(id, 1)), _leaf(id, 2));
    }

    function _proof(bytes32 id, uint256 who) private view returns (bytes32[] memory proof) {
        if (who == 2) return Trees.proof(Trees.parent(_leaf(id, 0), _leaf(id, 1)));
        proof = new bytes32[](2);
        (proof[0], proof[1]) = (_leaf(id, 1 - who), _leaf(id, 2));
    }
}

contract InvariantsTest {
    HyperGPULedger private _ledger;
    Driver private _driver;

    function setUp() public {
        vm.warp(1_700_000_000);
        _ledger = new HyperGPULedger();
        vm.deal(address(this), 2 ether);
        _driver = new Driver{value: 2 ether}(_ledger);
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_driver);
    }

    function invariant_the_contract_holds_exactly_what_sessions_have_not_paid_out() public view {
        uint256 held;
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            HyperGPULedger.Session memory s = _ledger.session(id);
            held += s.pool - s.paid;
            require(_driver.given(id) == s.pool - s.paid + _driver.refunded(id) + s.paid, "wei lost or made");
        }
        require(address(_ledger).balance == held, "insolvent");
    }

    function invariant_paid_never_exceeds_owed_nor_owed_the_pool() public view {
        for (uint256 i = 0; i < 2; ++i) {
            HyperGPULedger.Session memory s = _ledger.session(_driver.ids(i));
            require(s.paid <= s.owed && s.owed <= s.pool, "overpaid");
        }
    }

    function invariant_rounds_are_counted_one_by_one() public view {
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            require(_ledger.session(id).next == _driver.commits(id) + 1, "round lost or doubled");
        }
    }

    function invariant_nobody_receives_more_than_was_earned() public view {
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            uint256 total;
            for (uint256 who = 0; who < 3; ++who) {
                address account = _driver.accounts(who);
                uint256 received = _driver.received(id, account);
                require(received <= _driver.earned(id, account), "paid twice");
                require(received == _ledger.claimed(id, account), "claimed differs from received");
                total += received;
            }
            require(total == _ledger.session(id).paid, "paid differs from received");
        }
    }

    function invariant_no_dishonest_call_ever_succeeds() public view {
        require(!_driver.cheated(), "cheated");
    }
}
